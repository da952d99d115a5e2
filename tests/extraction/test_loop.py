"""The extraction loop on real checkpoint directories of a tiny model."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlamaConfig, LlamaModel
from transformers.models.clip.modeling_clip import CLIPAttention
from transformers.models.llama.modeling_llama import LlamaMLP

from tests.extraction.alignment_reference import Reference
from tests.tiny_models import sharpen, text_sizes, tiny_llava
from xmas_job.data.examples import Example, Turn
from xmas_job.errors import BadDataError, UsageError
from xmas_job.extraction import loop
from xmas_job.extraction.batching import Sample, batches_of
from xmas_job.extraction.checkpoints import Checkpoints, _Memory, _share_equal_modules
from xmas_job.extraction.loop import ExtractionSettings, PartitionSignals, SignalPart, extract_partition
from xmas_job.extraction.signals import Request
from xmas_job.models.adapter import LVLM, Encoded

SETTINGS = ExtractionSettings(max_length=60, token_budget=200)
CHECKPOINTS = (1, 2, 5)


def example(index: int) -> Example:
    question = Turn("user", "How many squares are there? " * (index % 3 + 1), 1)
    return Example(f"uid-{index * 7 % 10:02d}", (question, Turn("assistant", "two")), (f"{index // 2}.png",))


EXAMPLES = [
    *(example(index) for index in range(10)),
    Example("uid-text", (Turn("user", "Which?"), Turn("assistant", "red"))),
    # Its second image lies beyond max_length; the first one and the words after it stay.
    Example(
        "uid-long", (Turn("user", "yes " * 60, 1), Turn("assistant", "a"), Turn("user", "", 1)), ("0.png", "1.png")
    ),
    Example("uid-late", (Turn("user", "no " * 60), Turn("assistant", "a"), Turn("user", "b", 1)), ("1.png",)),
]


def load_image(uri: str) -> Image.Image:
    pixels = np.random.default_rng(int(uri[0])).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def run(
    checkpoints: dict[int, Path], settings: ExtractionSettings = SETTINGS, examples: list[Example] = EXAMPLES
) -> PartitionSignals:
    return extract_partition(checkpoints, examples, load_image, settings, lambda _done, _total: None)


def alignment(*arguments: Any, **named: Any) -> Mapping[int, SignalPart]:
    return run(*arguments, **named).parts["alignment"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    for t in CHECKPOINTS:
        lvlm = tiny_llava(seed=t)
        sharpen(lvlm.model)
        lvlm.save(root / str(t))
    return {t: root / str(t) for t in CHECKPOINTS}


@pytest.fixture(scope="module")
def computed(checkpoints: dict[int, Path]) -> PartitionSignals:
    return run(checkpoints)


@pytest.fixture(scope="module")
def signals(computed: PartitionSignals) -> Mapping[int, SignalPart]:
    return computed.parts["alignment"]


def test_values_equal_reference_at_every_checkpoint(
    checkpoints: dict[int, Path], signals: Mapping[int, SignalPart]
) -> None:
    assert list(signals) == list(CHECKPOINTS)
    by_uid = {example.uid: example for example in EXAMPLES}
    for t, path in checkpoints.items():
        lvlm = LVLM.load(path)
        reference = Reference(lvlm)
        for uid, values in zip(signals[t].uids, signals[t].values, strict=True):
            images = [load_image(uri) for uri in by_uid[uid].image_uris]
            expected = reference.values(lvlm.encode(by_uid[uid], images, max_length=SETTINGS.max_length))
            np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6 * expected.sum())
            np.testing.assert_allclose(values.astype(np.float64).sum(), expected.sum(), rtol=1e-6)


def test_output_is_sorted_by_uid_with_shapes_and_token_counts(signals: Mapping[int, SignalPart]) -> None:
    signal = signals[1]
    assert signal.uids == (*(f"uid-{index:02d}" for index in range(10)), "uid-long")
    assert signal.values.shape == (11, 5)
    assert signal.values.dtype == np.float32
    assert (np.diff(signal.values, axis=1) <= 0).all()
    assert (signal.num_image_tokens == 16).all()
    # "uid-long" keeps 60 tokens: "USER", ":", " ", sixteen image tokens, and the 41 after them.
    assert signal.num_text_tokens[-1] == 60 - 3 - 16


def test_examples_without_a_block_are_absent_with_their_reason(computed: PartitionSignals) -> None:
    assert computed.absent == {"alignment": (("uid-late", "no_image_after_truncation"), ("uid-text", "text_only"))}


def test_fewer_checkpoints_give_the_same_bytes(checkpoints: dict[int, Path], signals: Mapping[int, SignalPart]) -> None:
    subset = alignment({5: checkpoints[5]})
    assert list(subset) == [5]
    assert subset[5].values.tobytes() == signals[5].values.tobytes()
    assert subset[5].uids == signals[5].uids


@pytest.mark.parametrize("token_budget", [1, 10_000])
def test_values_do_not_depend_on_the_token_budget(
    checkpoints: dict[int, Path], signals: Mapping[int, SignalPart], token_budget: int
) -> None:
    other = alignment(checkpoints, ExtractionSettings(max_length=60, token_budget=token_budget))
    for t in CHECKPOINTS:
        scores = signals[t].values.astype(np.float64).sum(axis=1)
        np.testing.assert_allclose(other[t].values.astype(np.float64).sum(axis=1), scores, rtol=1e-6)


def test_values_do_not_depend_on_order_or_chunks(
    checkpoints: dict[int, Path], signals: Mapping[int, SignalPart], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_CHUNK_BYTES", 1)
    other = alignment(checkpoints, examples=EXAMPLES[::-1])
    for t in CHECKPOINTS:
        assert other[t].uids == signals[t].uids
        scores = signals[t].values.astype(np.float64).sum(axis=1)
        np.testing.assert_allclose(other[t].values.astype(np.float64).sum(axis=1), scores, rtol=1e-6)


def test_images_are_loaded_once_and_progress_ends_at_the_total(checkpoints: dict[int, Path]) -> None:
    loaded: Counter[str] = Counter()
    seen: list[tuple[int, int]] = []

    def load_and_count(uri: str) -> Image.Image:
        loaded[uri] += 1
        return load_image(uri)

    extract_partition(checkpoints, EXAMPLES, load_and_count, SETTINGS, lambda done, total: seen.append((done, total)))
    assert loaded == dict.fromkeys(("0.png", "1.png", "2.png", "3.png", "4.png"), 1)
    assert seen[-1] == (13, 13)
    assert seen == sorted(seen)


def test_only_text_gives_an_empty_signal(checkpoints: dict[int, Path]) -> None:
    computed = run({2: checkpoints[2]}, examples=EXAMPLES[10:11])
    signal = computed.parts["alignment"][2]
    assert signal.uids == ()
    assert signal.values.shape == (0, 5)
    assert computed.absent == {"alignment": (("uid-text", "text_only"),)}


def test_nan_weight_names_the_file(checkpoints: dict[int, Path], tmp_path: Path) -> None:
    broken = LVLM.load(checkpoints[2])
    with torch.no_grad():
        broken.model.model.multi_modal_projector.linear_1.bias[0] = float("nan")
    broken.save(tmp_path / "2")
    message = rf"{tmp_path}/2/model\.safetensors: weight .*linear_1\.bias is not finite"
    with pytest.raises(BadDataError, match=message):
        run({1: checkpoints[1], 2: tmp_path / "2"}, examples=EXAMPLES[:3])


def test_overflow_names_example_and_checkpoint(checkpoints: dict[int, Path], tmp_path: Path) -> None:
    broken = LVLM.load(checkpoints[2])
    with torch.no_grad():
        broken.model.model.multi_modal_projector.linear_1.bias.fill_(3e38)
        broken.model.model.multi_modal_projector.linear_2.weight.fill_(1)
    broken.save(tmp_path / "2")
    with pytest.raises(BadDataError, match=rf"example uid-\d\d at checkpoint 2 \({tmp_path}/2\) is not finite"):
        run({1: checkpoints[1], 2: tmp_path / "2"}, examples=EXAMPLES[:3])


def test_another_architecture_names_the_file(checkpoints: dict[int, Path], tmp_path: Path) -> None:
    sizes = {**text_sizes(LVLM.load(checkpoints[1]).processor.tokenizer), "num_hidden_layers": 2}
    tiny_llava(text_config=LlamaConfig(attention_bias=True, **sizes)).save(tmp_path / "2")
    with pytest.raises(
        BadDataError, match=rf"{tmp_path}/2/config\.json: another architecture.*num_hidden_layers is 2, not 3"
    ):
        run({1: checkpoints[1], 2: tmp_path / "2"})


def test_other_frequencies_are_another_architecture(checkpoints: dict[int, Path], tmp_path: Path) -> None:
    """All weights fit, as they would with other heads: only the configuration tells."""
    shutil.copytree(checkpoints[2], tmp_path / "2")
    config = json.loads((tmp_path / "2" / "config.json").read_text())
    config["text_config"]["rope_parameters"]["rope_theta"] = 500.0
    (tmp_path / "2" / "config.json").write_text(json.dumps({**config, "transformers_version": "5.0"}))
    with pytest.raises(BadDataError, match=r"2/config\.json: another arch.*rope_theta is 500\.0, not 10000\.0"):
        run({1: checkpoints[1], 2: tmp_path / "2"})


def test_other_tokens_name_the_file(checkpoints: dict[int, Path], tmp_path: Path) -> None:
    shutil.copytree(checkpoints[2], tmp_path / "2")
    file = tmp_path / "2" / "tokenizer.json"
    content = json.loads(file.read_text())
    words = content["model"]["vocab"]
    words["!"], words['"'] = words['"'], words["!"]
    file.write_text(json.dumps(content))
    with pytest.raises(BadDataError, match=rf"{file}: other tokens than {checkpoints[1]}"):
        run({1: checkpoints[1], 2: tmp_path / "2"})


def test_tokens_beyond_the_embeddings_name_the_file(checkpoints: dict[int, Path], tmp_path: Path) -> None:
    shutil.copytree(checkpoints[2], tmp_path / "2")
    processor = LVLM.load(checkpoints[2]).processor
    processor.tokenizer.add_tokens(["<one more>"])
    processor.save_pretrained(tmp_path / "2")
    with pytest.raises(BadDataError, match=r"2/tokenizer\.json: token id \d+, but the model embeds \d+"):
        run({2: tmp_path / "2"})


def test_an_example_that_cannot_be_encoded_is_absent(checkpoints: dict[int, Path]) -> None:
    odd = Example("uid-odd", (Turn("user", "what is <image>?", 1), Turn("assistant", "red")), ("0.png",))
    computed = run({1: checkpoints[1]}, examples=[EXAMPLES[0], odd, EXAMPLES[1]])
    assert computed.absent == {"alignment": (("uid-odd", "cannot_encode"),)}
    assert computed.parts["alignment"][1].uids == ("uid-00", "uid-07")


def test_an_example_without_an_answer_has_no_loss_but_a_score(checkpoints: dict[int, Path]) -> None:
    mute = Example("uid-mute", (Turn("user", "Which?", 1),), ("0.png",))
    cut = Example("uid-cut", (Turn("user", "no " * 80, 1), Turn("assistant", "red")), ("0.png",))
    settings = ExtractionSettings(max_length=60, request=Request(("alignment", "loss", "last_state")))
    computed = run({1: checkpoints[1]}, settings, [mute, cut, *EXAMPLES[9:11]])
    assert computed.absent == {
        "alignment": (("uid-text", "text_only"),),
        "loss": (("uid-cut", "no_answer_after_truncation"), ("uid-mute", "no_answer_after_truncation")),
        "last_state": (),
    }
    uids = {name: by_checkpoint[1].uids for name, by_checkpoint in computed.parts.items()}
    assert uids == {
        "alignment": ("uid-03", "uid-cut", "uid-mute"),
        "loss": ("uid-03", "uid-text"),
        "last_state": ("uid-03", "uid-cut", "uid-mute", "uid-text"),
    }


def test_sharing_changes_no_score(checkpoints: dict[int, Path], signals: Mapping[int, SignalPart]) -> None:
    other = alignment(checkpoints, replace(SETTINGS, share_prefixes=False))
    for t in CHECKPOINTS:
        scores = signals[t].values.astype(np.float64).sum(axis=1)
        np.testing.assert_allclose(other[t].values.astype(np.float64).sum(axis=1), scores, rtol=1e-6)


# --- what is equal in all checkpoints ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(checkpoints: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Three checkpoints of one vision tower, with projectors and decoders of their own."""
    root = tmp_path_factory.mktemp("trained")
    tower = LVLM.load(checkpoints[1]).model.model.vision_tower.state_dict()
    for t, path in checkpoints.items():
        lvlm = LVLM.load(path)
        lvlm.model.model.vision_tower.load_state_dict(tower)
        lvlm.save(root / str(t))
    return {t: root / str(t) for t in checkpoints}


@pytest.mark.parametrize("is_resident", [True, False])
def test_equal_modules_run_once_and_change_nothing(
    trained: dict[int, Path], monkeypatch: pytest.MonkeyPatch, is_resident: bool
) -> None:
    alone = {t: alignment({t: path})[t] for t, path in trained.items()}
    calls: Counter[str] = Counter()
    attend = CLIPAttention.forward

    def counted(self: CLIPAttention, *arguments: Any, **named: Any) -> Any:
        calls["attention"] += 1
        return attend(self, *arguments, **named)

    monkeypatch.setattr(CLIPAttention, "forward", counted)
    alignment({1: trained[1]})
    once = calls.pop("attention")
    monkeypatch.setattr(Checkpoints, "_fits", lambda _self: is_resident)
    together = alignment(trained)
    assert calls["attention"] == once
    for t, part in together.items():
        assert part.values.tobytes() == alone[t].values.tobytes()


def test_equal_modules_are_found_by_weight(checkpoints: dict[int, Path], trained: dict[int, Path]) -> None:
    found = Checkpoints(trained, device="cpu", dtype=torch.float32)
    assert found.equal_modules == ("model.vision_tower",)
    unlike = Checkpoints(checkpoints, device="cpu", dtype=torch.float32).equal_modules
    assert {name.rpartition(".")[2].rstrip("12") for name in unlike} == {"pre_layrnorm", "layer_norm", "post_layernorm"}
    same = Checkpoints({1: trained[1], 2: trained[1]}, device="cpu", dtype=torch.float32)
    assert "model.multi_modal_projector" in same.equal_modules


def test_modules_with_unequal_running_means_are_not_shared() -> None:
    """Frozen weights do not keep a normalisation's statistics from moving."""
    towers = [tiny_llava() for _ in range(2)]
    for mean, lvlm in enumerate(towers):
        lvlm.model.model.vision_tower.register_buffer("running_mean", torch.full((3,), float(mean)))
    names = _share_equal_modules([lvlm.model for lvlm in towers], towers[0], _Memory())
    assert "model.vision_tower" not in names
    assert "model.multi_modal_projector" in names


# --- memory and processes ------------------------------------------------------------------------------------------


def test_a_batch_too_large_for_the_memory_is_halved(
    checkpoints: dict[int, Path], signals: Mapping[int, SignalPart], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = LlamaModel.forward

    def at_most_two(self: LlamaModel, *arguments: Any, **named: Any) -> Any:
        if len(named["inputs_embeds"]) > 2:
            raise torch.OutOfMemoryError
        return forward(self, *arguments, **named)

    monkeypatch.setattr(LlamaModel, "forward", at_most_two)
    computed = run({1: checkpoints[1]}, replace(SETTINGS, token_budget=10_000))
    assert computed.num_splits > 0
    for t, part in computed.parts["alignment"].items():
        scores = signals[t].values.astype(np.float64).sum(axis=1)
        np.testing.assert_allclose(part.values.astype(np.float64).sum(axis=1), scores, rtol=1e-6)


def test_one_example_too_large_for_the_memory_stops(
    checkpoints: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(LlamaMLP, "forward", never)
    with pytest.raises(UsageError, match="does not hold one example of 49 tokens"):
        run({1: checkpoints[1]})


def test_batches_fill_the_token_budget_longest_first() -> None:
    """Budget 12: the 7 goes alone (two would be 14), 4+4+3 make three rows of 4, then 3 and 2 two rows of 3."""
    lengths = {"e": 4, "a": 3, "d": 7, "b": 4, "c": 2, "f": 3}
    samples = [
        Sample(Encoded(uid, torch.zeros(n), torch.full((n,), -100), torch.zeros(n, dtype=torch.bool), {}), ())
        for uid, n in lengths.items()
    ]
    found = [[one.uid for one in batch.members] for batch in batches_of(samples, 12, share=True)]
    assert found == [["d"], ["b", "e", "a"], ["f", "c"]]
    assert [len(batch.members) for batch in batches_of(samples[:2], 1, share=True)] == [1, 1]


def test_signal_is_computed_only_where_it_is_wanted(checkpoints: dict[int, Path], computed: PartitionSignals) -> None:
    first, *_, last = CHECKPOINTS
    request = Request(("alignment", "el2n", "loss"))
    steps = {"el2n": (last,), "loss": (first, last)}
    some = run(checkpoints, ExtractionSettings(max_length=60, request=request, steps=steps))
    assert {name: [*parts] for name, parts in some.parts.items()} == {
        "alignment": [*CHECKPOINTS], "el2n": [last], "loss": [first, last]
    }  # fmt: skip
    whole = run(checkpoints, ExtractionSettings(max_length=60, request=request))
    for name, parts in some.parts.items():
        for t, part in parts.items():
            assert part.uids == whole.parts[name][t].uids
            assert part.values.tobytes() == whole.parts[name][t].values.tobytes()
