"""Prefix sharing: the same scores as alone, and only where it is exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import MistralConfig, Qwen2Config

from tests.extraction.alignment_reference import Reference
from tests.extraction.families import gemma3
from tests.tiny_models import sharpen, text_sizes, tiny_llava, tiny_qwen
from xmas_job.data.examples import Example, Turn
from xmas_job.extraction.batching import PassBatch, Sample, batches_of
from xmas_job.extraction.prefix import can_share, has_own_suffix, prefix_key, prefix_length
from xmas_job.extraction.signals import Request, plain_signals, shared_signals
from xmas_job.models.adapter import LVLM, Encoded
from xmas_job.sections import AlignmentConfig

ALL = ("alignment", "loss", "perplexity", "el2n", "aum", "mean_state", "last_state", "coincide")
REQUESTS = {
    "paper": Request(),
    "head_mean": Request(alignment=AlignmentConfig(attention="head_mean")),
    "first layer": Request(alignment=AlignmentConfig(layers="first")),
    "stacked": Request(alignment=AlignmentConfig(aggregation="concat_text")),
    "all signals": Request(ALL, coincide_layers=(0, 2)),
    "states": Request(("mean_state", "coincide"), coincide_layers=(1,)),
}


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def example(uid: str, question: str, answer: str, image: str) -> Example:
    return Example(uid, (Turn("user", question, 1), Turn("assistant", answer)), (image,))


EXAMPLES = [
    example("a", "Which colour is the circle?", "red", "1"),
    example("b", "How many?", "two squares", "1"),
    example("c", "Is the triangle left of the square?", "no, above", "1"),
    example("d", "Which?", "one", "2"),
    example("e", "Which colour?", "green blue yellow", "2"),
]


@pytest.fixture(scope="module")
def lvlm() -> LVLM:
    made = tiny_llava()
    sharpen(made.model)
    return made


@pytest.fixture(scope="module")
def groups(lvlm: LVLM) -> list[list[Encoded]]:
    encoded = [lvlm.encode(one, [picture(int(one.image_uris[0]))]) for one in EXAMPLES]
    return [encoded[:3], encoded[3:]]


@pytest.mark.parametrize("request_name", REQUESTS)
def test_sharing_changes_no_value(lvlm: LVLM, groups: list[list[Encoded]], request_name: str) -> None:
    wanted = REQUESTS[request_name]
    together = shared_signals(lvlm, groups, wanted, where="here")
    for index, one in enumerate([one for group in groups for one in group]):
        alone = plain_signals(lvlm, [one], wanted, where="here")
        for name in wanted.signals:
            scale = alone[name].abs().max()
            torch.testing.assert_close(together[name][index], alone[name][0], rtol=1e-6, atol=float(2e-6 * scale))


def test_shared_values_equal_the_float64_reference(lvlm: LVLM, groups: list[list[Encoded]]) -> None:
    reference = Reference(lvlm)
    values = shared_signals(lvlm, groups, Request(), where="here")["alignment"].numpy()
    for one, row in zip([one for group in groups for one in group], values, strict=True):
        expected = reference.values(one)
        np.testing.assert_allclose(row, expected, rtol=1e-5)
        np.testing.assert_allclose(row.sum(dtype=np.float64), expected.sum(), rtol=1e-6)


def test_every_group_sees_its_own_image(lvlm: LVLM, groups: list[list[Encoded]]) -> None:
    """With the images exchanged the scores differ by far more than rounding: a mix-up would be seen."""
    right = plain_signals(lvlm, [groups[0][0]], Request(), where="here")["alignment"].sum()
    other = Encoded(**{**vars(groups[0][0]), "image_inputs": groups[1][0].image_inputs})
    wrong = plain_signals(lvlm, [other], Request(), where="here")["alignment"].sum()
    assert abs(float(wrong / right) - 1) > 1e-3


def test_the_prefix_runs_once_an_image(lvlm: LVLM, groups: list[list[Encoded]]) -> None:
    rows: list[tuple[int, int]] = []
    projection = lvlm.model.model.language_model.layers[0].self_attn.q_proj
    hook = projection.register_forward_hook(lambda _m, _i, output: rows.append(tuple(output.shape[:2])))
    shared_signals(lvlm, groups, Request(), where="here")
    hook.remove()
    length = prefix_length(groups[0][0])
    longest = max(len(one.input_ids) for group in groups for one in group) - length
    assert rows == [(2, length), (5, longest)]


def test_llava_shares_and_qwen_takes_the_plain_path(lvlm: LVLM, groups: list[list[Encoded]]) -> None:
    assert can_share(lvlm, groups[0][0])
    qwen = tiny_qwen()
    assert not can_share(qwen, qwen.encode(EXAMPLES[0], [picture(1)]))


@pytest.mark.parametrize("window", [None, 8])
@pytest.mark.parametrize("kind", [MistralConfig, Qwen2Config])
def test_windows_of_attention_are_not_shared(kind: Any, window: int | None) -> None:
    """Mistral has one window for all layers, Qwen 2 says it layer by layer."""
    options = {"use_sliding_window": window is not None, "max_window_layers": 1} if kind is Qwen2Config else {}
    sizes = text_sizes(tiny_llava().processor.tokenizer)
    windowed = tiny_llava(text_config=kind(**sizes, sliding_window=window, **options))
    assert can_share(windowed, windowed.encode(EXAMPLES[0], [picture(1)])) is (window is None)


def test_image_tokens_that_see_each_other_are_not_shared() -> None:
    """Gemma 3 without windows: only the mask that it makes for its decoder tells."""
    gemma = gemma3(layer_types=["full_attention"] * 3)
    small, _ = gemma.pictures
    assert not can_share(gemma.lvlm, gemma.encode("one", 3, small, 9))


def test_a_decoder_that_gets_more_than_tokens_is_not_shared() -> None:
    """As Qwen3-VL's does, which adds image features to its first layers."""
    lvlm = tiny_llava()
    encoded = lvlm.encode(EXAMPLES[0], [picture(1)])
    assert can_share(lvlm, encoded)
    lvlm.language_model().register_forward_pre_hook(
        lambda _module, arguments, named: (arguments, {**named, "deepstack_visual_embeds": [torch.zeros(1)]}),
        with_kwargs=True,
    )
    assert not can_share(lvlm, encoded)


def samples(lvlm: LVLM, examples: list[Example]) -> list[Sample]:
    return [Sample(lvlm.encode(one, [picture(1)]), one.image_uris) for one in examples]


def uids(batch: PassBatch) -> list[list[str]]:
    return [[one.uid for one in group] for group in batch.groups]


def test_only_same_images_behind_same_words_are_grouped(lvlm: LVLM) -> None:
    late = Example("late", (Turn("system", "look"), Turn("user", "Which?", 1), Turn("assistant", "red")), ("1",))
    found = list(batches_of(samples(lvlm, [*EXAMPLES[:4], late]), 1000, share=True))
    assert [batch.is_shared for batch in found] == [True, False]
    assert sorted(map(sorted, uids(found[0]))) == [["a", "b", "c"]]
    assert sorted(map(sorted, uids(found[1]))) == [["d"], ["late"]]
    assert not any(batch.is_shared for batch in batches_of(samples(lvlm, EXAMPLES), 1000, share=False))


def test_shared_batches_stay_within_the_budget(lvlm: LVLM) -> None:
    """A group's cost is its prefix once and its suffixes padded; a group that is too large is cut."""
    every = samples(lvlm, EXAMPLES)
    length = prefix_length(every[0].encoded)
    for budget in (length + 20, 60, 90, 200):
        for batch in batches_of(every, budget, share=True):
            longest = max(len(one.input_ids) for one in batch.members) - (length if batch.is_shared else 0)
            cost = len(batch.members) * longest + (length * len(batch.groups) if batch.is_shared else 0)
            assert cost <= budget or len(batch.members) == 1
        covered = [one.uid for batch in batches_of(every, budget, share=True) for one in batch.members]
        assert sorted(covered) == ["a", "b", "c", "d", "e"]


def test_an_answer_right_behind_the_image_is_not_shared(lvlm: LVLM, groups: list[list[Encoded]]) -> None:
    one = groups[0][0]
    labels = one.labels.clone()
    labels[prefix_length(one)] = 3
    assert has_own_suffix(one)
    assert not has_own_suffix(Encoded(**{**vars(one), "labels": labels}))
    assert prefix_key(one, ("1",)) != prefix_key(one, ("2",))
