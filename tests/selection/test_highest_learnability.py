from __future__ import annotations

import pytest

from tests.selection.small_pools import order_of, small_pool
from xmas_job.selection.highest_learnability import HighestLearnability

LOSSES = [[4.0, 3.0], [1.0, 0.5], [2.0, 2.5], [0.0, 0.0]]
"""Falls: 1, 0.5, -0.5, 0; relative: 1/4, 1/2, -1/4, 0."""


@pytest.mark.parametrize(("normalise", "expected"), [(True, [1, 0, 3, 2]), (False, [0, 1, 3, 2])])
def test_largest_fall_first_by_hand(normalise: bool, expected: list[int]) -> None:
    assert order_of(HighestLearnability(normalise=normalise), small_pool({"loss": LOSSES})) == expected


def test_vanishing_loss_before_training_counts_as_the_smallest() -> None:
    # 1e-7 / 1e-6 = 0.1, not 1.
    pool = small_pool({"loss": [[1e-7, 0.0], [1.0, 0.8]]})
    assert order_of(HighestLearnability(), pool) == [1, 0]
