"""Greedy MMD by hand, and against the definition over the whole kernel."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from xmas_job.core.kernel import GaussianKernel, greedy_mmd


def line(*places: float) -> NDArray[np.float32]:
    return np.array(places, dtype=np.float32)[:, None]


def test_kernel_by_hand() -> None:
    # sigma² = 2: exp(-d² / 4) of distances 0, 2, 4.
    kernel = GaussianKernel(line(0, 9, 2, 4), np.array([0, 2, 3]), sigma=2**0.5)
    one, two = np.exp(-1.0), np.exp(-4.0)
    assert kernel.column(0).tolist() == pytest.approx([1, one, two], rel=1e-12)
    assert kernel.row_means().tolist() == pytest.approx(
        [(1 + one + two) / 3, (1 + 2 * one) / 3, (1 + one + two) / 3], rel=1e-12
    )


def test_the_middle_comes_first_then_what_it_does_not_stand_for() -> None:
    # Two heaps: 0 0.1 0.2 and 9. The heap's middle stands best for all; then the lone one; then the ends of the heap.
    features = line(0.0, 0.1, 0.2, 9.0)
    kernel = GaussianKernel(features, np.arange(4), sigma=1.0)
    assert greedy_mmd(kernel, kernel.row_means(), 4).tolist()[:2] == [1, 3]


def test_equal_members_come_in_their_order() -> None:
    kernel = GaussianKernel(np.ones((5, 2), dtype=np.float32), np.arange(5), sigma=1.0)
    assert greedy_mmd(kernel, kernel.row_means(), 5).tolist() == [0, 1, 2, 3, 4]


@given(num_rows=st.integers(1, 9), seed=st.integers(0, 999), sigma=st.sampled_from([0.3, 1.0, 3.0]))
@settings(max_examples=100, deadline=None)
def test_greedy_against_the_definition(num_rows: int, seed: int, sigma: float) -> None:
    features = np.random.default_rng(seed).normal(size=(num_rows, 3)).astype(np.float32)
    kernel = GaussianKernel(features, np.arange(num_rows), sigma)
    found = greedy_mmd(kernel, kernel.row_means(), num_rows).tolist()
    whole = np.exp(-((features[:, None].astype(float) - features[None]) ** 2).sum(axis=2) / (2 * sigma**2))
    chosen: list[int] = []
    for pick in found:
        values = {j: mmd(whole, [*chosen, j]) for j in range(num_rows) if j not in chosen}
        assert values[pick] == pytest.approx(min(values.values()), abs=1e-9)
        chosen.append(pick)
    assert sorted(found) == list(range(num_rows))


def mmd(whole: NDArray[np.float64], chosen: list[int]) -> float:
    return float(whole.mean() + whole[np.ix_(chosen, chosen)].mean() - 2 * whole[:, chosen].mean())


def test_large_clusters_give_the_same_without_holding_their_kernel() -> None:
    features = np.random.default_rng(1).normal(size=(60, 4)).astype(np.float32)
    rows = np.arange(5, 55)
    held, streamed = (GaussianKernel(features, rows, 1.0, held=limit) for limit in (50, 49))
    assert streamed.row_means() == pytest.approx(held.row_means(), abs=1e-12)
    picks = [greedy_mmd(kernel, kernel.row_means(), 20).tolist() for kernel in (held, streamed)]
    assert picks[0] == picks[1]


def test_a_smaller_choice_is_a_prefix() -> None:
    features = np.random.default_rng(1).normal(size=(30, 4)).astype(np.float32)
    kernel = GaussianKernel(features, np.arange(30), 1.0)
    picks = [greedy_mmd(kernel, kernel.row_means(), size).tolist() for size in range(1, 31)]
    assert all(larger[: len(smaller)] == smaller for smaller, larger in pairwise(picks))
