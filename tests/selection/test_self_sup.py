from __future__ import annotations

from tests.selection.small_pools import order_of, small_pool
from xmas_job.selection.self_sup import SelfSup


def test_closest_to_its_own_centroid_first_by_hand() -> None:
    # Cosines: 3/5 to (1, 0), 1 to (0, 1), 0 to (1, 0), 4/5 to (0, 1). Lengths say nothing.
    features = [[3, 4], [0, 9], [0, 1], [6, 8]]
    pool = small_pool({"clip": features}, clusters=[0, 1, 0, 1], centroids=[[2, 0], [0, 1]])
    assert order_of(SelfSup(), pool) == [1, 3, 0, 2]
