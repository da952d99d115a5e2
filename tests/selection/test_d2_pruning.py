from __future__ import annotations

import math

import numpy as np
import pytest

from tests.selection.small_pools import order_of, small_pool
from xmas_job.selection.d2_pruning import D2Pruning

FEATURES = [[0.0], [0.0], [0.1], [50.0]]


def test_a_pick_silences_its_neighbours_by_hand() -> None:
    # One neighbour each: 0 -> 1 (d 0), 1 -> 0, 2 -> 0 (d 0.01, equal to 1: by row), 3 -> 2 (far: weight 0).
    # Messages: .9 + .8 = 1.7; 1.7; .7 + .99 * .9 = 1.59; .4. Row 0 takes 1.7 from row 1, which has nothing left;
    # then 2, 3, 1.
    pool = small_pool({"aum": [0.9, 0.8, 0.7, 0.4], "mean_state": FEATURES})
    assert order_of(D2Pruning(num_neighbours=1), pool) == [0, 2, 3, 1]


def test_negative_margins_count_as_nothing() -> None:
    # Clipped, rows 0 to 2 have messages of about 2e-7 each, 0 and 1 the larger; 0 silences 1. As they are, 2 would be
    # the least bad of them.
    pool = small_pool({"aum": [-0.9, -0.8, -0.7, 0.1], "mean_state": FEATURES})
    assert order_of(D2Pruning(num_neighbours=1), pool) == [3, 0, 2, 1]


def test_more_neighbours_than_examples_are_all_of_them() -> None:
    pool = small_pool({"aum": [0.1, 0.5], "mean_state": [[0.0], [9.0]]})
    assert order_of(D2Pruning(num_neighbours=5), pool) == [1, 0]


@pytest.mark.parametrize("seed", range(8))
def test_the_ports_settings_against_the_formulas_written_out(seed: int) -> None:
    """Five neighbours; g_i = s_i + sum exp(-d) s_j; the best takes g_i exp(-0.4 d) from its own. d is squared."""
    rng = np.random.default_rng(seed)
    margins, states = rng.uniform(0.1, 1, 20), rng.normal(size=(20, 2))
    pool = small_pool({"aum": margins, "mean_state": states})
    scores, points = (pool.signals[name].astype(float).tolist() for name in ("aum", "mean_state"))
    squared = [[math.dist(one, other) ** 2 for other in points] for one in points]
    nearest = [sorted(set(range(20)) - {i}, key=lambda j, i=i: squared[i][j])[:5] for i in range(20)]  # type: ignore[misc]
    message = [scores[i] + sum(math.exp(-squared[i][j]) * scores[j] for j in nearest[i]) for i in range(20)]
    left, expected = set(range(20)), []
    while left:
        best = max(left, key=lambda i: message[i])
        left.remove(best)
        expected.append(best)
        for j in nearest[best]:
            message[j] -= message[best] * math.exp(-0.4 * squared[best][j]) if j in left else 0.0
    assert order_of(D2Pruning(), pool) == expected
