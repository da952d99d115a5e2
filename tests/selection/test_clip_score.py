from __future__ import annotations

from tests.selection.small_pools import order_of, small_pool
from xmas_job.selection.clip_score import ClipScore


def test_best_matching_first_by_hand() -> None:
    assert order_of(ClipScore(), small_pool({"clip_score": [0.2, -0.1, 0.3, 0.2]})) == [2, 0, 3, 1]
