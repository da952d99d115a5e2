from __future__ import annotations

import numpy as np
import pytest

from tests.selection.small_pools import order_of, small_pool
from xmas_job.selection.contract import CandidatePool
from xmas_job.selection.density import Density


def pool_of(log_losses: list[float]) -> CandidatePool:
    """One checkpoint; alignment does not vary, so it tells nothing apart."""
    return small_pool({"loss": np.exp(log_losses)[:, None], "alignment": np.full((len(log_losses), 1), 3.0)})


def test_the_first_is_drawn_by_its_weight() -> None:
    # On a line at 0 1 3 7 the nearest neighbours lie at 1 1 2 4: squares 1 1 4 16, of 22, whatever the scale.
    # A quarter is spread evenly: 3/4 * (1, 1, 4, 16) / 22 + 1/16.
    pool = pool_of([0.0, 1.0, 3.0, 7.0])
    method = Density(num_neighbours=1)
    firsts = np.bincount([order_of(method, pool, seed)[0] for seed in range(4000)], minlength=4) / 4000
    expected = 0.75 * np.array([1, 1, 4, 16]) / 22 + 0.25 / 4
    assert firsts.tolist() == pytest.approx(expected.tolist(), abs=0.03)


def test_the_farthest_of_the_neighbours_counts() -> None:
    # Second neighbours of 0 1 3 7 lie at 3 2 3 6: squares 9 4 9 36, of 58.
    firsts = [order_of(Density(num_neighbours=2), pool_of([0.0, 1.0, 3.0, 7.0]), seed)[0] for seed in range(4000)]
    expected = 0.75 * np.array([9, 4, 9, 36]) / 58 + 0.25 / 4
    assert (np.bincount(firsts, minlength=4) / 4000).tolist() == pytest.approx(expected.tolist(), abs=0.03)


def test_the_second_is_drawn_among_the_others_by_their_weight() -> None:
    pool = pool_of([0.0, 1.0, 3.0, 7.0])
    orders = [order_of(Density(num_neighbours=1), pool, seed)[:2] for seed in range(4000)]
    seconds = np.bincount([second for first, second in orders if first == 3], minlength=4)
    weights = 0.75 * np.array([1, 1, 4, 0]) / 22 + np.array([1, 1, 1, 0]) * 0.25 / 4
    assert (seconds / seconds.sum()).tolist() == pytest.approx((weights / weights.sum()).tolist(), abs=0.05)


def test_equal_examples_are_drawn_evenly() -> None:
    firsts = [order_of(Density(), pool_of([1.0] * 4), seed)[0] for seed in range(800)]
    assert np.bincount(firsts, minlength=4).tolist() == pytest.approx([200] * 4, abs=50)


def test_columns_count_alike_whatever_their_unit() -> None:
    losses = np.random.default_rng(0).uniform(1, 2, (30, 2))
    alignment = np.random.default_rng(1).uniform(1, 2, (30, 2))
    orders = [
        order_of(Density(num_neighbours=3), small_pool({"loss": losses, "alignment": factor * alignment}))
        for factor in (1, 1024)
    ]
    assert orders[0] == orders[1]


def test_loss_of_zero_counts_as_the_smallest() -> None:
    zero, smallest = ({"loss": [[value], [1.0], [2.0]], "alignment": np.ones((3, 1))} for value in (0.0, 1e-6))
    assert order_of(Density(), small_pool(zero)) == order_of(Density(), small_pool(smallest))
