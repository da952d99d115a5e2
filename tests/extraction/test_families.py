"""Every family's scores against eager attention captured independently: ragged batches, tiles, several images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.extraction.eager_reference import EagerModel, maps_of, paper_map, rows_and_columns
from tests.extraction.families import FAMILIES, Family
from tests.tiny_models import sharpen
from xmas_job.extraction.prefix import can_share
from xmas_job.extraction.signals import Request, plain_signals, shared_signals
from xmas_job.models.adapter import Encoded
from xmas_job.sections import AlignmentConfig

REQUESTS = {
    "paper": Request(),
    "head_mean": Request(alignment=AlignmentConfig(attention="head_mean")),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    made = FAMILIES[request.param]()
    sharpen(made.lvlm.model, 16)
    return made


@pytest.fixture(scope="module")
def examples(family: Family) -> list[Encoded]:
    small, large = family.pictures
    return [
        family.encode("one", 3, small, 9),
        family.encode("tiles", 5, large, 4),
        family.encode("two images", 2, large, 4, small, 17),
        family.encode("nothing before", small, 12),
    ]


@pytest.fixture(scope="module")
def scores(family: Family, examples: list[Encoded]) -> dict[str, list[np.ndarray]]:
    """Singular values by request, from the eager model; and with queries and keys exchanged."""
    model = EagerModel(family.lvlm)
    found: dict[str, list[np.ndarray]] = {"paper": [], "head_mean": [], "swapped": []}
    for one in examples:
        eager = model.run(one)
        block = np.ix_(*rows_and_columns(one))
        swapped = [
            paper_map(q, k, eager.num_key_heads, swap=True) for q, k in zip(eager.queries, eager.keys, strict=True)
        ]
        for name, maps in (("swapped", swapped), *((name, maps_of(eager, name)) for name in REQUESTS)):
            found[name].append(np.linalg.svd(sum(one[block] for one in maps), compute_uv=False)[:5])
    return found


@pytest.mark.parametrize("attention", REQUESTS)
@pytest.mark.parametrize("batch", [(0, 1, 2, 3), (3,), (2, 0)], ids=str)
def test_values_equal_eager_attention(
    family: Family,
    examples: list[Encoded],
    scores: dict[str, list[np.ndarray]],
    attention: str,
    batch: tuple[int, ...],
) -> None:
    members = [examples[index] for index in batch]
    values = plain_signals(family.lvlm, members, REQUESTS[attention], where="here")["alignment"].double().numpy()
    for index, row in zip(batch, values, strict=True):
        expected = scores[attention][index]
        assert abs(row.sum() / expected.sum() - 1) < 1e-5
        np.testing.assert_allclose(row[: len(expected)], expected, rtol=1e-4, atol=2e-6 * expected[0])


def test_mistakes_would_be_seen(scores: dict[str, list[np.ndarray]]) -> None:
    """Swapped queries and keys, and another attention, move a score by hundreds of tolerances."""
    right, heads, swapped = (
        np.array([one.sum() for one in scores[name]]) for name in ("paper", "head_mean", "swapped")
    )
    assert np.abs(swapped / right - 1).max() > 3e-3
    assert np.abs(heads / right - 1).max() > 3e-3


def test_text_only_examples_have_states_and_losses(family: Family) -> None:
    texts = [family.encode("t", 9), family.encode("u", 14)]
    request = Request(("loss", "last_state"))
    together = plain_signals(family.lvlm, texts, request, where="here")
    eager = EagerModel(family.lvlm)
    for index, one in enumerate(texts):
        np.testing.assert_allclose(together["last_state"][index], eager.run(one).states[-1], atol=5e-5)


def test_sharing_is_exact_or_refused(family: Family, scores: dict[str, list[np.ndarray]]) -> None:
    _, large = family.pictures
    first, second = family.encode("first", 5, large, 4), family.encode("second", 5, large, 11)
    second.input_ids[:5] = first.input_ids[:5]
    assert can_share(family.lvlm, first) is family.shares
    if not family.shares:
        return
    for request in REQUESTS.values():
        together = shared_signals(family.lvlm, [[first, second]], request, where="here")["alignment"]
        for one, row in zip((first, second), together, strict=True):
            alone = plain_signals(family.lvlm, [one], request, where="here")["alignment"][0]
            assert abs(float(row.double().sum() / alone.double().sum()) - 1) < 1e-6
            torch.testing.assert_close(row, alone, rtol=1e-5, atol=float(2e-6 * alone.max()))
