from __future__ import annotations

import numpy as np

from tests.selection.small_pools import order_of, small_pool
from xmas_job.selection.hierarchical import Hierarchical

# Cells 0 and 1 lie together (one group), cell 2 far away, cell 3 is empty.
CENTROIDS = [[0.0, 0], [1, 0], [50, 0], [0, 900]]
CELLS = [0] * 5 + [1] * 2 + [2] * 3


def test_equal_quotas_over_groups_then_over_cells_by_hand() -> None:
    pool = small_pool({}, clusters=CELLS, centroids=CENTROIDS)
    for seed in range(10):
        order = order_of(Hierarchical(num_groups=2), pool, seed)
        # Groups {0, 1} and {2} by turns; in the first, cells 0 and 1 by turns.
        assert [CELLS[row] for row in order] == [0, 2, 1, 2, 0, 2, 1, 0, 0, 0]
    # Every member may be the first.
    assert {order_of(Hierarchical(num_groups=2), pool, seed)[0] for seed in range(60)} == {0, 1, 2, 3, 4}


def test_empty_cells_join_nothing_wherever_their_number_stands() -> None:
    """Cell 1 is empty and lies by cell 0; without it, cells 2 and 3 are the two that join."""
    cells, centroids = [0] * 2 + [2] * 2 + [3] * 2, [[0.0, 0], [1, 0], [50, 0], [60, 0]]
    pool = small_pool({}, clusters=cells, centroids=centroids)
    groups = [cells[row] == 0 for row in order_of(Hierarchical(num_groups=2), pool)]
    assert groups == [False, True, False, True, False, False]


def test_as_many_groups_as_cells_balance_the_cells() -> None:
    pool = small_pool({}, clusters=CELLS, centroids=CENTROIDS)
    assert [CELLS[row] for row in order_of(Hierarchical(), pool)] == [0, 2, 1, 0, 2, 1, 0, 2, 0, 0]


def test_linkage_is_average() -> None:
    """Cells at -0.5, 4, 8, 8.5 and 13.5: 8 and 8.5 join, then 4 (4.25), then 13.5 (20 / 3), for -0.5 is at 22 / 3.

    By the nearest members -0.5 would join before 13.5 (4.5 against 5), and by the farthest too (9 against 9.5).
    """
    cells = [0, 0, 1, 2, 3, 4]
    pool = small_pool({}, clusters=cells, centroids=np.array([[-0.5], [4], [8], [8.5], [13.5]]))
    groups = [cells[row] > 0 for row in order_of(Hierarchical(num_groups=2), pool)]
    assert groups == [True, False, True, False, True, True]
