"""The alignment score against an independent float64 reference, and against the mistakes it must not make."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Gemma2Config, GPTNeoXConfig, Phi3Config

from tests.extraction.alignment_reference import Mistakes, Reference
from tests.tiny_models import sharpen, text_sizes, tiny_llava, tiny_qwen
from xmas_job.data.examples import Example, Turn
from xmas_job.errors import BadDataError, UsageError
from xmas_job.extraction.alignment import top_singular_values
from xmas_job.extraction.signals import Request, plain_signals
from xmas_job.extraction.spans import block_absence, num_block_tokens
from xmas_job.models.adapter import LVLM, Encoded
from xmas_job.sections import AlignmentConfig

TOLERANCE = 1e-5
FAMILIES = {"llava": tiny_llava, "qwen": tiny_qwen}
EXAMPLES = [
    Example(
        "several turns",
        (
            Turn("user", "Which colour is the circle?", 1),
            Turn("assistant", "red"),
            Turn("user", "How many squares are there?"),
            Turn("assistant", "two squares"),
        ),
        ("a",),
    ),
    Example("short", (Turn("user", "Which?", 1), Turn("assistant", "red")), ("b",)),
    Example(
        "two images",
        (
            Turn("user", "Which?", 1),
            Turn("assistant", "red"),
            Turn("user", "And here?", 1),
            Turn("assistant", "no, the other one is left of the green triangle and above it"),
        ),
        ("a", "b"),
    ),
    Example("images side by side", (Turn("user", "Same?", 2), Turn("assistant", "yes")), ("b", "a")),
]


def picture(seed: int, width: int, height: int, block: int = 1) -> Image.Image:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height // block, width // block, 3), dtype=np.uint8)
    return Image.fromarray(np.kron(pixels, np.ones((block, block, 1), dtype=np.uint8)))


PICTURES = {"a": picture(1, 48, 48), "b": picture(2, 64, 32, block=8)}


def alignment_values(lvlm: LVLM, *encoded: Encoded) -> np.ndarray:
    return plain_signals(lvlm, encoded, Request(), where="checkpoint 4")["alignment"].double().numpy()


@dataclass(frozen=True)
class Case:
    lvlm: LVLM
    reference: Reference
    encoded: list[Encoded]

    def values(self, *indices: int) -> np.ndarray:
        return alignment_values(self.lvlm, *(self.encoded[index] for index in indices))


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest) -> Case:
    lvlm = FAMILIES[request.param]()
    sharpen(lvlm.model)
    encoded = [lvlm.encode(example, [PICTURES[uri] for uri in example.image_uris]) for example in EXAMPLES]
    return Case(lvlm, Reference(lvlm), encoded)


@pytest.mark.parametrize("batch", [(0,), (1,), (2,), (3,), (0, 1, 2, 3), (3, 1), (2, 2, 1)])
def test_values_equal_float64_reference_in_any_batch(case: Case, batch: tuple[int, ...]) -> None:
    for index, values in zip(batch, case.values(*batch), strict=True):
        expected = case.reference.values(case.encoded[index])
        np.testing.assert_allclose(values, expected, rtol=TOLERANCE)
        np.testing.assert_allclose(values.sum(), expected.sum(), rtol=TOLERANCE / 10)


@pytest.mark.parametrize("mistake", [field.name for field in fields(Mistakes)])
def test_every_mistake_would_be_seen(case: Case, mistake: str) -> None:
    """Every example shows every mistake by hundreds of tolerances, so the test above fails for code that makes it."""
    shows = [index for index in range(4) if mistake != "rows_after_first_image" or index >= 2]
    right = np.array([case.reference.values(case.encoded[index]) for index in shows])
    wrong = np.array([case.reference.values(case.encoded[index], Mistakes(**{mistake: True})) for index in shows])
    assert (np.abs(wrong / right - 1).max(axis=1) > 300 * TOLERANCE).all()
    assert np.abs(wrong.sum(axis=1) / right.sum(axis=1) - 1).max() > 300 * TOLERANCE


def test_score_does_not_depend_on_batch_or_padding(case: Case) -> None:
    alone = np.concatenate([case.values(index) for index in range(4)]).sum(axis=1)
    for order in ((0, 1, 2, 3), (3, 2, 1, 0)):
        together = case.values(*order).sum(axis=1)
        np.testing.assert_allclose(together, alone[list(order)], rtol=1e-6)


def test_values_beyond_the_rows_are_zero(case: Case) -> None:
    whole = case.encoded[1]
    num_rows, _ = num_block_tokens(whole)
    cut = case.lvlm.encode(EXAMPLES[1], [PICTURES["b"]], max_length=len(whole.input_ids) - num_rows + 2)
    assert num_block_tokens(cut)[0] == 2
    values = alignment_values(case.lvlm, cut, whole)
    np.testing.assert_allclose(values[0], case.reference.values(cut), rtol=TOLERANCE)
    np.testing.assert_array_equal(values[0, 2:], 0)
    assert values[0, 1] > 0


def test_block_tokens_are_text_after_the_last_image_and_all_image_tokens(case: Case) -> None:
    tokens = case.lvlm.processor.tokenizer.convert_ids_to_tokens(case.encoded[2].input_ids)
    last = max(index for index, token in enumerate(tokens) if token == case.lvlm.processor.image_token)
    expected = (len(tokens) - 1 - last, tokens.count(case.lvlm.processor.image_token))
    assert num_block_tokens(case.encoded[2]) == expected


def test_top_singular_values_of_hand_worked_blocks() -> None:
    """diag(3, 4) has 4, 3; a row of four ones has length 2; [[2, 2, 1], [2, -2, 0]] has orthogonal rows 3 and √8."""
    blocks = [
        torch.tensor([[3.0, 0.0], [0.0, 4.0]]),
        torch.ones(1, 4),
        torch.tensor([[2.0, 2.0, 1.0], [2.0, -2.0, 0.0]]),
    ]
    expected = [[4, 3, 0], [2, 0, 0], [3, 8**0.5, 0]]
    for block, singular in zip(blocks, expected, strict=True):
        gram = (block @ block.T).double()
        np.testing.assert_allclose(top_singular_values(gram[None], 3)[0], singular, rtol=1e-14, atol=1e-14)


def test_absence_reasons(case: Case) -> None:
    text_only = Example("text", (Turn("user", "Which?"), Turn("assistant", "red")))
    assert block_absence(case.lvlm.encode(text_only, []), text_only) == "text_only"
    example, whole = EXAMPLES[1], case.encoded[1]
    images = [PICTURES["b"]]
    first, last = (int(position) for position in whole.image_token_mask.nonzero()[[0, -1], 0])
    reasons = {
        length: block_absence(case.lvlm.encode(example, images, max_length=length), example)
        for length in (first, first + 1, last, last + 1, last + 2, 1000)
    }
    assert reasons == {
        first: "no_image_after_truncation",
        first + 1: "no_image_after_truncation",
        last: "no_image_after_truncation",
        last + 1: "no_text_after_image",
        last + 2: None,
        1000: None,
    }


@pytest.fixture
def fresh() -> tuple[LVLM, Encoded]:
    """A model that a test may break."""
    lvlm = tiny_llava()
    return lvlm, lvlm.encode(EXAMPLES[1], [PICTURES["b"]])


def num_hooks(lvlm: LVLM) -> int:
    return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in lvlm.model.modules())


def test_nan_names_example_and_checkpoint(fresh: tuple[LVLM, Encoded]) -> None:
    lvlm, encoded = fresh
    with torch.no_grad():
        lvlm.model.model.language_model.layers[0].self_attn.v_proj.weight[0, 0] = float("nan")
    with pytest.raises(BadDataError, match=r"example short at checkpoint 4"):
        alignment_values(lvlm, encoded)


def test_hooks_are_removed_after_success_and_after_an_exception(fresh: tuple[LVLM, Encoded]) -> None:
    lvlm, encoded = fresh
    batch = lvlm.collate([encoded])
    lvlm.model(**batch.model_inputs)  # transformers leaves hooks of its own at the first pass
    before = num_hooks(lvlm)
    alignment_values(lvlm, encoded)
    assert num_hooks(lvlm) == before
    with pytest.raises(IndexError):
        alignment_values(lvlm, replace(encoded, input_ids=encoded.input_ids + 10**6, image_inputs={}))
    assert num_hooks(lvlm) == before


def test_nothing_after_the_last_projections_runs(fresh: tuple[LVLM, Encoded]) -> None:
    lvlm, encoded = fresh
    layers = lvlm.model.model.language_model.layers
    ran: list[str] = []
    watched = {
        "first mlp": layers[0].mlp,
        "last q_proj": layers[-1].self_attn.q_proj,
        "last o_proj": layers[-1].self_attn.o_proj,
        "last mlp": layers[-1].mlp,
        "head": lvlm.model.lm_head,
    }
    for name, module in watched.items():
        module.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
    alignment_values(lvlm, encoded)
    assert ran == ["first mlp", "last q_proj"]


def test_full_attention_is_never_built(fresh: tuple[LVLM, Encoded], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every softmax of ours has the text rows only."""
    lvlm, encoded = fresh
    shapes = []
    softmax = torch.softmax
    monkeypatch.setattr(
        torch, "softmax", lambda scores, dim: shapes.append(tuple(scores.shape)) or softmax(scores, dim)
    )
    alignment_values(lvlm, encoded)
    assert shapes == [(1, num_block_tokens(encoded)[0], len(encoded.input_ids))] * 3


def test_fused_projections_are_split() -> None:
    lvlm = tiny_llava(text_config=Phi3Config(**text_sizes(tiny_llava().processor.tokenizer)))
    sharpen(lvlm.model)
    encoded = lvlm.encode(EXAMPLES[0], [PICTURES["a"]])
    expected = Reference(lvlm).values(encoded)
    np.testing.assert_allclose(alignment_values(lvlm, encoded)[0], expected, rtol=TOLERANCE)


def test_unknown_projections_are_refused_by_name() -> None:
    sizes = text_sizes(tiny_llava().processor.tokenizer)
    lvlm = tiny_llava(text_config=GPTNeoXConfig(**sizes))
    encoded = lvlm.encode(EXAMPLES[1], [PICTURES["b"]])
    with pytest.raises(UsageError, match=r"GPTNeoXModel layer \d has neither q_proj and k_proj nor a qkv_proj"):
        alignment_values(lvlm, encoded)


def test_soft_caps_of_attention_are_refused_by_name() -> None:
    """Only where the heads' own maps are asked for: the paper's map has none."""
    lvlm = tiny_llava(text_config=Gemma2Config(**text_sizes(tiny_llava().processor.tokenizer), head_dim=8))
    encoded = lvlm.encode(EXAMPLES[1], [PICTURES["b"]])
    request = Request(alignment=AlignmentConfig(attention="head_mean"))
    with pytest.raises(UsageError, match="Gemma2Attention attends with softcap, which head_mean does not restate"):
        plain_signals(lvlm, [encoded], request, where="here")
    assert alignment_values(lvlm, encoded).sum() > 0
