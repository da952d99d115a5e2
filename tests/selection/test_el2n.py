from __future__ import annotations

from tests.selection.small_pools import order_of, small_pool
from xmas_job.selection.el2n import El2n


def test_highest_or_lowest_first_by_hand() -> None:
    pool = small_pool({"el2n": [0.2, 0.9, 0.2, 0.5]})
    assert order_of(El2n(), pool) == [1, 3, 0, 2]
    assert order_of(El2n(keep="lowest"), pool) == [0, 2, 3, 1]
