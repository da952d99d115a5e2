from __future__ import annotations

import numpy as np
import pytest

from xmas_job.selection.contract import CandidatePool, TextOnlyPolicy
from xmas_job.selection.full import Full
from xmas_job.selection.random import Random

HAS_IMAGE = np.array([True, False, True, True, False, True])
IMAGE_ROWS = [0, 2, 3, 5]


def pool(text_only: TextOnlyPolicy = "proportional") -> CandidatePool:
    return CandidatePool(np.array(list("abcdef")), HAS_IMAGE, {}, None, text_only)


def test_random_has_neither_clusters_nor_instability() -> None:
    ranking = Random().rank(pool(), np.random.default_rng(0))
    assert ranking.clusters.tolist() == [-1] * 6
    assert np.isnan(ranking.instability).all()


@pytest.mark.parametrize("text_only", ["cluster", "proportional"])
def test_random_places_text_as_it_falls(text_only: TextOnlyPolicy) -> None:
    """Every row is first equally often: 600 draws of one in six are 100 each, 9 a standard deviation."""
    firsts = [Random().rank(pool(text_only), np.random.default_rng(seed)).order[0] for seed in range(600)]
    counts = np.bincount(firsts, minlength=6)
    assert counts.min() > 60
    assert counts.max() < 140


def test_random_is_uniform_over_pairs_of_places() -> None:
    pairs = {tuple(Random().rank(pool(), np.random.default_rng(seed)).order[:2].tolist()) for seed in range(400)}
    assert len(pairs) == 30


def test_random_leaves_text_out_when_excluded() -> None:
    order = Random().rank(pool("exclude"), np.random.default_rng(0)).order
    assert sorted(order.tolist()) == IMAGE_ROWS


def test_full_is_the_pool_in_uid_order() -> None:
    assert Full().rank(pool(), np.random.default_rng(0)).order.tolist() == [0, 1, 2, 3, 4, 5]
    assert Full().rank(pool("exclude"), np.random.default_rng(0)).order.tolist() == IMAGE_ROWS
