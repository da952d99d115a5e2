"""The k-DPP sampler against enumerated subsets."""

from __future__ import annotations

from itertools import combinations
from math import comb, prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmas_job.core.determinantal import log_elementary_polynomials, sample_k_dpp


def test_elementary_polynomials_by_hand() -> None:
    # Of 1, 2, 3: e1 = 6, e2 = 2 + 3 + 6 = 11, e3 = 6.
    table = np.exp(log_elementary_polynomials(np.log([1.0, 2.0, 3.0]), 3))
    assert table[:, 3].tolist() == pytest.approx([1, 6, 11, 6])
    assert table[:, 1].tolist() == pytest.approx([1, 1, 0, 0])


@given(values=st.lists(st.floats(1e-3, 50), min_size=1, max_size=7))
@settings(max_examples=60, deadline=None)
def test_elementary_polynomials_against_all_subsets(values: list[float]) -> None:
    table = log_elementary_polynomials(np.log(values), len(values))
    for k in range(len(values) + 1):
        expected = sum(prod(subset) for subset in combinations(values, k))
        assert np.exp(table[k, -1]) == pytest.approx(expected, rel=1e-9)


def test_tiny_eigenvalues_do_not_underflow() -> None:
    table = log_elementary_polynomials(np.log(np.full(128, 1e-8)), 64)
    assert table[64, 128] == pytest.approx(np.log(float(comb(128, 64))) + 64 * np.log(1e-8), rel=1e-9)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_subsets_come_as_often_as_their_determinant_says(k: int) -> None:
    """Total variation over all subsets of 5, of 6000 draws: about sqrt(subsets / draws) / 2 = 0.02 by chance."""
    rng = np.random.default_rng(k)
    factors = rng.normal(size=(5, 3))
    kernel = factors @ factors.T + 0.1 * np.eye(5)
    subsets = list(combinations(range(5), k))
    weights = np.array([np.linalg.det(kernel[np.ix_(subset, subset)]) for subset in subsets])
    counts = dict.fromkeys(subsets, 0)
    for _ in range(6000):
        counts[tuple(sorted(sample_k_dpp(kernel, k, rng).tolist()))] += 1
    observed = np.array(list(counts.values())) / 6000
    assert np.abs(observed - weights / weights.sum()).sum() / 2 < 0.035


def test_orthogonal_items_are_drawn_and_copies_are_not() -> None:
    # Two copies of e1 and one e2: two of the same have determinant 0.
    factors = np.array([[1.0, 0], [1, 0], [0, 1]])
    kernel = factors @ factors.T + 1e-8 * np.eye(3)
    drawn = {tuple(sorted(sample_k_dpp(kernel, 2, np.random.default_rng(seed)).tolist())) for seed in range(200)}
    assert drawn == {(0, 2), (1, 2)}


def test_equal_items_are_still_drawn_without_repeats() -> None:
    kernel = np.ones((40, 40)) + 1e-8 * np.eye(40)
    for seed in range(20):
        drawn = sample_k_dpp(kernel, 30, np.random.default_rng(seed))
        assert len(set(drawn.tolist())) == 30
