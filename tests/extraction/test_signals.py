"""Every signal and every option of the score against a straight float64 computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Gemma2Config, PaliGemmaConfig, PaliGemmaForConditionalGeneration

from tests.extraction.eager_reference import (
    Eager,
    EagerModel,
    answer_signals,
    coincide,
    maps_of,
    rows_and_columns,
)
from tests.tiny_models import sharpen, text_sizes, tiny_llava
from xmas_job.catalog.signals import EXTRACTED
from xmas_job.data.examples import Example, Turn
from xmas_job.errors import UsageError
from xmas_job.extraction import answers
from xmas_job.extraction.signals import Request, plain_signals, widths
from xmas_job.models.adapter import LVLM, Encoded
from xmas_job.sections import AlignmentConfig

ALL = tuple(sorted(EXTRACTED))
COINCIDE_LAYERS = (0, 2)


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8))


EXAMPLES = [
    Example("short", (Turn("user", "Which?", 1), Turn("assistant", "red")), ("1",)),
    Example(
        "long",
        (
            Turn("user", "Which colour is the circle?", 1),
            Turn("assistant", "red, and the square is green"),
            Turn("user", "How many triangles are there?"),
            Turn("assistant", "two"),
        ),
        ("2",),
    ),
]


@pytest.fixture(scope="module")
def lvlm() -> LVLM:
    made = tiny_llava()
    sharpen(made.model)
    made.model.lm_head.weight.data.mul_(40)  # a fresh head is nearly uniform and hides mistakes
    return made


@pytest.fixture(scope="module")
def encoded(lvlm: LVLM) -> list[Encoded]:
    return [lvlm.encode(one, [picture(int(one.image_uris[0]))]) for one in EXAMPLES]


@pytest.fixture(scope="module")
def eager(lvlm: LVLM, encoded: list[Encoded]) -> list[Eager]:
    model = EagerModel(lvlm)
    return [model.run(one) for one in encoded]


def alignment(lvlm: LVLM, encoded: list[Encoded], **options: object) -> np.ndarray:
    request = Request(alignment=AlignmentConfig.model_validate(options))
    return plain_signals(lvlm, encoded, request, where="here")["alignment"].double().numpy()


def block_of(eager: Eager, encoded: Encoded, options: dict[str, object]) -> np.ndarray:
    """The matrix whose singular values are asked for."""
    maps = maps_of(eager, str(options.get("attention", "paper")))
    layers = options.get("layers", "all")
    chosen = {"all": maps, "first": maps[:1], "last": maps[-1:]}[layers] if isinstance(layers, str) else None
    chosen = [maps[layer] for layer in layers] if chosen is None else chosen  # type: ignore[attr-defined]
    rows, columns = rows_and_columns(encoded)
    if options.get("block") == "full":
        rows = columns = np.arange(len(encoded.input_ids))
    blocks = [one[np.ix_(rows, columns)] for one in chosen]
    stacked = {
        "sum": lambda: sum(blocks),
        "concat_text": lambda: np.concatenate(blocks, axis=0),
        "concat_vision": lambda: np.concatenate(blocks, axis=1),
    }
    return np.asarray(stacked[str(options.get("aggregation", "sum"))]())


OPTIONS: list[dict[str, object]] = [
    {},
    {"attention": "head_mean"},
    {"block": "full"},
    {"attention": "head_mean", "block": "full"},
    {"layers": "first"},
    {"layers": "last"},
    {"layers": (0, 2)},
    {"aggregation": "concat_text"},
    {"aggregation": "concat_vision"},
    {"top_k": 1},
    {"top_k": 30},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_equals_its_equation(
    lvlm: LVLM, encoded: list[Encoded], eager: list[Eager], options: dict[str, object]
) -> None:
    found = alignment(lvlm, encoded, **options)
    top_k = options.get("top_k", 5)
    for values, one, left in zip(found, encoded, eager, strict=True):
        singular = np.linalg.svd(block_of(left, one, options), compute_uv=False)[:top_k]
        expected = np.pad(singular, (0, top_k - len(singular)))
        np.testing.assert_allclose(values, expected, rtol=2e-5, atol=1e-6 * expected[0])
        np.testing.assert_allclose(values.sum(), expected.sum(), rtol=1e-5)


def test_every_option_gives_another_score(lvlm: LVLM, encoded: list[Encoded]) -> None:
    """So the test above would see an option that is ignored, or mistaken for another."""
    scores = [alignment(lvlm, encoded[1:], **options).sum() for options in OPTIONS if options != {"top_k": 30}]
    gaps = np.abs(np.subtract.outer(scores, scores)) / np.max(scores) + np.eye(len(scores))
    assert gaps.min() > 3e-4


@pytest.mark.parametrize("aggregation", ["sum", "concat_text"])
def test_all_singular_values_are_summed(
    lvlm: LVLM, encoded: list[Encoded], eager: list[Eager], aggregation: str
) -> None:
    found = alignment(lvlm, encoded, top_k="all", aggregation=aggregation)
    assert found.shape == (2, 1)
    for value, one, left in zip(found[:, 0], encoded, eager, strict=True):
        block = block_of(left, one, {"aggregation": aggregation})
        np.testing.assert_allclose(value, np.linalg.svd(block, compute_uv=False).sum(), rtol=1e-5)


@pytest.mark.parametrize("aggregation", ["sum", "concat_text"])
def test_leading_vector_with_its_largest_entry_positive(
    lvlm: LVLM, encoded: list[Encoded], eager: list[Eager], aggregation: str
) -> None:
    found = alignment(lvlm, encoded, score="leading_vector", aggregation=aggregation)
    assert found.shape == (2, 16)
    for values, one, left in zip(found, encoded, eager, strict=True):
        vector = np.linalg.svd(block_of(left, one, {"aggregation": aggregation}))[2][0]
        vector *= np.sign(vector[np.abs(vector).argmax()])
        np.testing.assert_allclose(values, vector, atol=1e-5)


def test_leading_vector_needs_equal_numbers_of_image_tokens(lvlm: LVLM, encoded: list[Encoded]) -> None:
    turns = (Turn("user", "Same?", 2), Turn("assistant", "yes"))
    two = lvlm.encode(Example("two", turns, ("1", "2")), [picture(1), picture(2)])
    with pytest.raises(UsageError, match="same number of image tokens in every example, not 16 and 32"):
        alignment(lvlm, [encoded[0], two], score="leading_vector")


def test_a_layer_that_is_not_there_is_refused(lvlm: LVLM, encoded: list[Encoded]) -> None:
    with pytest.raises(UsageError, match="layer 3 is asked for, but the proxy has layers 0 to 2"):
        alignment(lvlm, encoded, layers=(0, 3))


def test_one_pass_serves_all_signals(lvlm: LVLM, encoded: list[Encoded], eager: list[Eager]) -> None:
    passes: list[object] = []
    assert lvlm.softcap is None  # asked for once a model
    hook = lvlm.language_model().register_forward_pre_hook(lambda *_: passes.append(None))
    request = Request(ALL, coincide_layers=COINCIDE_LAYERS)
    found = plain_signals(lvlm, encoded, request, where="here")
    hook.remove()
    assert len(passes) == 1
    assert {name: values.shape[1] for name, values in found.items()} == widths(request, lvlm)
    for index, (one, left) in enumerate(zip(encoded, eager, strict=True)):
        for name, expected in answer_signals(left, one).items():
            np.testing.assert_allclose(float(found[name][index]), expected, rtol=2e-5)
        np.testing.assert_allclose(found["mean_state"][index], left.states.mean(axis=0), atol=2e-5)
        np.testing.assert_allclose(found["last_state"][index], left.states[-1], atol=2e-5)
        np.testing.assert_allclose(found["coincide"][index], coincide(left, one, COINCIDE_LAYERS), atol=2e-6)
        singular = np.linalg.svd(block_of(left, one, {}), compute_uv=False)[:5]
        np.testing.assert_allclose(found["alignment"][index].double().sum(), singular.sum(), rtol=1e-6)


def test_answer_signals_would_show_a_shift_by_one(encoded: list[Encoded], eager: list[Eager]) -> None:
    """The logits at an answer token itself predict the next one: all four signals differ by hundreds of tolerances."""
    shifted = Eager(eager[1].maps, np.roll(eager[1].logits, -1, axis=0), eager[1].states)
    right, wrong = answer_signals(eager[1], encoded[1]), answer_signals(shifted, encoded[1])
    assert all(abs(wrong[name] / right[name] - 1) > 1e-3 for name in right)


@pytest.mark.parametrize("kind", ["llava", "paligemma"])
def test_losses_are_those_of_the_model_with_a_capped_decoder(kind: str) -> None:
    """Gemma 2 caps its logits; behind a Llava they stay as they are, behind a PaliGemma they are capped."""
    text = Gemma2Config(**text_sizes(tiny_llava().processor.tokenizer), head_dim=8, final_logit_softcapping=5.0)
    lvlm = tiny_llava(text_config=text)
    if kind == "paligemma":
        tower = lvlm.model.config.vision_config
        model = PaliGemmaForConditionalGeneration(PaliGemmaConfig(vision_config=tower, text_config=text))
        lvlm = LVLM(model.eval(), lvlm.processor)
    lvlm.model.get_output_embeddings().weight.data.mul_(40)
    example = Example("t", (Turn("user", "Which?"), Turn("assistant", "red, and the square is green")))
    encoded = lvlm.encode(example, [])
    batch = lvlm.collate([encoded])
    with torch.no_grad():
        expected = float(lvlm.model(**batch.model_inputs, labels=batch.labels).loss)
    found = plain_signals(lvlm, [encoded], Request(("loss",)), where="here")["loss"]
    np.testing.assert_allclose(float(found), expected, rtol=1e-5)
    assert lvlm.softcap == {"llava": None, "paligemma": 5.0}[kind]


def test_many_answer_tokens_are_taken_in_turns(
    lvlm: LVLM, encoded: list[Encoded], eager: list[Eager], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "_TOKENS_AT_ONCE", 3)
    found = plain_signals(lvlm, encoded, Request(("loss", "el2n", "aum")), where="here")
    for index, (one, left) in enumerate(zip(encoded, eager, strict=True)):
        expected = answer_signals(left, one)
        for name, values in found.items():
            np.testing.assert_allclose(float(values[index]), expected[name], rtol=2e-5)
