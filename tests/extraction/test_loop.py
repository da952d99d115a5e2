"""The extraction loop on real checkpoint directories of a tiny model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.extraction.alignment_reference import Reference
from tests.tiny_models import sharpen, tiny_llava
from xmas_job.data.examples import Example, Turn
from xmas_job.errors import BadDataError
from xmas_job.extraction import loop
from xmas_job.extraction.loop import ExtractionSettings, PartitionSignal, extract_partition, token_budget_batches
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
) -> dict[int, PartitionSignal]:
    return extract_partition(checkpoints, examples, load_image, settings, lambda _done, _total: None)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    for t in CHECKPOINTS:
        lvlm = tiny_llava(seed=t)
        sharpen(lvlm.model)
        lvlm.save(root / str(t))
    return {t: root / str(t) for t in CHECKPOINTS}


@pytest.fixture(scope="module")
def signals(checkpoints: dict[int, Path]) -> dict[int, PartitionSignal]:
    return run(checkpoints)


def test_values_equal_reference_at_every_checkpoint(
    checkpoints: dict[int, Path], signals: dict[int, PartitionSignal]
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


def test_output_is_sorted_by_uid_with_shapes_and_token_counts(signals: dict[int, PartitionSignal]) -> None:
    signal = signals[1]
    assert signal.uids == (*(f"uid-{index:02d}" for index in range(10)), "uid-long")
    assert signal.values.shape == (11, 5)
    assert signal.values.dtype == np.float32
    assert (np.diff(signal.values, axis=1) <= 0).all()
    assert (signal.num_image_tokens == 16).all()
    # "uid-long" keeps 60 tokens: "USER", ":", " ", sixteen image tokens, and the 41 after them.
    assert signal.num_text_tokens[-1] == 60 - 3 - 16


def test_examples_without_a_block_are_absent_with_their_reason(signals: dict[int, PartitionSignal]) -> None:
    for signal in signals.values():
        assert signal.absent == (("uid-late", "no_image_after_truncation"), ("uid-text", "text_only"))


def test_fewer_checkpoints_give_the_same_bytes(
    checkpoints: dict[int, Path], signals: dict[int, PartitionSignal]
) -> None:
    subset = run({5: checkpoints[5]})
    assert list(subset) == [5]
    assert subset[5].values.tobytes() == signals[5].values.tobytes()
    assert subset[5].uids == signals[5].uids


@pytest.mark.parametrize("token_budget", [1, 10_000])
def test_values_do_not_depend_on_the_token_budget(
    checkpoints: dict[int, Path], signals: dict[int, PartitionSignal], token_budget: int
) -> None:
    other = run(checkpoints, ExtractionSettings(max_length=60, token_budget=token_budget))
    for t in CHECKPOINTS:
        scores = signals[t].values.astype(np.float64).sum(axis=1)
        np.testing.assert_allclose(other[t].values.astype(np.float64).sum(axis=1), scores, rtol=1e-6)


def test_values_do_not_depend_on_order_or_chunks(
    checkpoints: dict[int, Path], signals: dict[int, PartitionSignal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_CHUNK_BYTES", 1)
    other = run(checkpoints, examples=EXAMPLES[::-1])
    for t in CHECKPOINTS:
        assert other[t].uids == signals[t].uids
        assert other[t].absent == signals[t].absent
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
    signal = run({2: checkpoints[2]}, examples=EXAMPLES[10:11])[2]
    assert signal.uids == ()
    assert signal.values.shape == (0, 5)
    assert signal.absent == (("uid-text", "text_only"),)


def test_nan_weight_names_example_and_checkpoint(checkpoints: dict[int, Path], tmp_path: Path) -> None:
    broken = LVLM.load(checkpoints[2])
    with torch.no_grad():
        broken.model.model.multi_modal_projector.linear_1.bias[0] = float("nan")
    broken.save(tmp_path / "2")
    with pytest.raises(BadDataError, match=r"example uid-\d\d at checkpoint 2 is not finite"):
        run({1: checkpoints[1], 2: tmp_path / "2"}, examples=EXAMPLES[:3])


def test_batches_fill_the_token_budget_longest_first() -> None:
    """Budget 12: the 7 goes alone (two would be 14), 4+4+3 make three rows of 4, then 3 and 2 two rows of 3."""
    lengths = {"e": 4, "a": 3, "d": 7, "b": 4, "c": 2, "f": 3}
    encoded = [
        Encoded(uid, torch.zeros(length), torch.zeros(length), torch.zeros(length), {})
        for uid, length in lengths.items()
    ]
    batches = [[one.uid for one in members] for members in token_budget_batches(encoded, 12)]
    assert batches == [["d"], ["b", "e", "a"], ["f", "c"]]


def test_an_example_longer_than_the_budget_is_a_batch_of_its_own() -> None:
    encoded = [Encoded(uid, torch.zeros(9), torch.zeros(9), torch.zeros(9), {}) for uid in "ba"]
    assert [[one.uid for one in members] for members in token_budget_batches(encoded, 4)] == [["a"], ["b"]]
