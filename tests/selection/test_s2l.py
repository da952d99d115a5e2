from __future__ import annotations

import numpy as np
import pytest

from tests.selection.small_pools import order_of, small_pool
from xmas_job.selection.s2l import S2L

# Source a: cluster 0 rows 0 1 2 3, cluster 1 rows 4 5 6, cluster 2 row 7 (small). Source b: rows 8 9 10, cluster 0.
CLUSTERS = [0, 0, 0, 0, 1, 1, 1, 2, 0, 0, 0]
SOURCES = ["a"] * 8 + ["b"] * 3


def test_sources_then_clusters_by_hand() -> None:
    pool = small_pool({}, clusters=CLUSTERS, sources=SOURCES)
    for seed in range(20):
        order = order_of(S2L(), pool, seed)
        # By turns the larger source a, then b, until b is empty.
        assert ["ab"[row > 7] for row in order] == list("ababab") + ["a"] * 5
        from_a = [row for row in order if row < 8]
        assert [CLUSTERS[row] for row in from_a] == [0, 1, 0, 1, 0, 1, 0, 2]  # the small cluster waits


def test_the_larger_source_and_cluster_come_first_wherever_they_lie() -> None:
    """Source b, the larger, has the later rows; its cluster of two is small, its cluster of three is not."""
    clusters, sources = [0] * 3 + [0] * 2 + [1] * 3, ["a"] * 3 + ["b"] * 5
    pool = small_pool({}, clusters=clusters, sources=sources)
    for seed in range(5):
        order = order_of(S2L(), pool, seed)
        assert [sources[row] for row in order] == list("bababa") + ["b"] * 2
        assert [clusters[row] for row in order if row >= 3] == [1, 1, 1, 0, 0]


def test_members_are_drawn() -> None:
    pool = small_pool({}, clusters=CLUSTERS, sources=SOURCES)
    firsts = [order_of(S2L(), pool, seed)[0] for seed in range(200)]
    assert min(np.bincount(firsts, minlength=4)[:4]) > 25
    assert set(firsts) == {0, 1, 2, 3}


def test_without_sources_only_clusters_are_balanced() -> None:
    pool = small_pool({}, clusters=CLUSTERS, sources=SOURCES)
    order = order_of(S2L(balance_sources=False), pool)
    # Cluster 0 has seven rows, cluster 1 three, cluster 2 one, which waits.
    assert [CLUSTERS[row] for row in order] == [0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 2]


@pytest.mark.parametrize("budget", range(1, 12))
def test_every_prefix_is_the_water_filling_of_the_release(budget: int) -> None:
    """Quotas: the smallest source first, each a share of what remains; then the same over a source's large clusters."""
    pool = small_pool({}, clusters=CLUSTERS, sources=SOURCES)
    order = order_of(S2L(), pool)[:budget]
    by_source = [sum(row > 7 for row in order), sum(row <= 7 for row in order)]
    assert by_source == released_quotas([3, 8], budget)
    large = [sum(row in range(4, 7) for row in order), sum(row in range(4) for row in order)]
    small = sum(row == 7 for row in order)
    assert [*large, small] == [*released_quotas([3, 4], min(by_source[1], 7)), max(0, by_source[1] - 7)]


def released_quotas(ascending_sizes: list[int], budget: int) -> list[int]:
    quotas = []
    for place, size in enumerate(ascending_sizes):
        quotas.append(min(size, (budget - sum(quotas)) // (len(ascending_sizes) - place)))
    return quotas


def test_text_only_rows_are_one_more_cluster_of_their_source() -> None:
    pool = small_pool({}, clusters=[0] * 4, text_rows=[4, 5, 6], text_only="cluster", sources=["a"] * 7)
    assert [row > 3 for row in order_of(S2L(), pool)] == [False, True, False, True, False, True, False]
