from __future__ import annotations

from tests.selection.small_pools import chosen_by, small_pool
from xmas_job.selection.ofa import Ofa

# Cluster 7: rows 0 1 2 3 4 5; cluster 1: rows 6 7; cluster 4: row 8.
CLUSTERS = [7] * 6 + [1] * 2 + [4]
CONFIDENCE = [0.9, 0.1, 0.5, 0.1, 0.7, 0.2, 0.4, 0.3, 0.8]


def test_least_confident_of_each_cluster_by_hand() -> None:
    pool = small_pool({"ofa_confidence": CONFIDENCE}, clusters=CLUSTERS)
    # 6 of 9: 4, 4/3, 2/3: floors 4 1, one for the small cluster: six.
    assert chosen_by(Ofa(), pool, 6) == [1, 3, 5, 2, 7, 8]
    # 4 of 9: 8/3, 8/9, 4/9: 2 and two ones.
    assert chosen_by(Ofa(), pool, 4) == [1, 3, 7, 8]
    # Fewer places than clusters: the largest.
    assert chosen_by(Ofa(), pool, 2) == [1, 7]


def test_text_only_rows_get_their_share_of_the_places() -> None:
    pool = small_pool({"ofa_confidence": CONFIDENCE}, clusters=CLUSTERS, text_rows=[9, 10, 11])
    chosen = chosen_by(Ofa(), pool, 5)  # floor(5 * 3 / 12) = 1 text-only
    assert chosen[:4] == [1, 3, 7, 8]
    assert chosen[4] in {9, 10, 11}
    assert {chosen_by(Ofa(), pool, 5, seed)[4] for seed in range(30)} == {9, 10, 11}
