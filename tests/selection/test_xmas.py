"""XMAS on pools small enough to rank by hand. Rows stand for uids in their order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from xmas_job.selection.contract import CandidatePool, Ranking, TextOnlyPolicy
from xmas_job.selection.xmas import Xmas


def make_pool(
    clusters: Sequence[int | None], unstable: Sequence[float], text_only: TextOnlyPolicy = "proportional"
) -> CandidatePool:
    """`clusters`: of each row, None for text-only. `unstable`: the instability of each row with an image."""
    has_image = np.array([cluster is not None for cluster in clusters])
    trajectories = np.array([[2.0, 2.0 + value] for value in unstable], dtype=np.float32).reshape(-1, 2)
    cluster_ids = np.array([cluster for cluster in clusters if cluster is not None], dtype=np.int32)
    uids = np.array([f"{row:04d}" for row in range(len(clusters))])
    return CandidatePool(uids, has_image, {"alignment": trajectories}, cluster_ids, text_only)


def rank(pool: CandidatePool, method: Xmas | None = None, seed: int = 0) -> Ranking:
    return (method or Xmas()).rank(pool, np.random.default_rng(seed))


# Cluster 4: rows 0 2 4 6 7, by instability 6 2 0 7 4. Cluster 1: rows 1 5 8, by instability 8 1 5. Cluster 2: row 3.
CLUSTERS = [4, 1, 4, 2, 4, 1, 4, 4, 1]
UNSTABLE = [0.5, 0.25, 0.25, 9.0, 4.0, 0.75, 0.0, 1.0, 0.125]


def test_balance_over_clusters_and_stability_inside_by_hand() -> None:
    ranking = rank(make_pool(CLUSTERS, UNSTABLE))
    assert ranking.order.tolist() == [6, 8, 3, 2, 1, 0, 5, 7, 4]
    assert ranking.clusters.tolist() == [4, 1, 2, 4, 1, 4, 1, 4, 4]
    assert ranking.instability.tolist() == [0.0, 0.125, 9.0, 0.25, 0.25, 0.5, 0.75, 1.0, 4.0]


def test_stable_order_draws_nothing() -> None:
    pool = make_pool(CLUSTERS, UNSTABLE)
    assert rank(pool, seed=1).order.tolist() == rank(pool, seed=2).order.tolist()


def test_ties_are_broken_by_uid() -> None:
    assert rank(make_pool([0, 1, 0, 1, 0], [1.0] * 5)).order.tolist() == [0, 1, 2, 3, 4]


def test_equal_clusters_come_in_the_order_of_their_smallest_uid() -> None:
    # Cluster 9 holds the smallest uid, though 3 has the more stable examples and the smaller number.
    assert rank(make_pool([9, 3, 3, 9], [5, 1, 2, 4])).order.tolist() == [3, 1, 0, 2]


def test_random_within_clusters_keeps_the_balance_and_draws_the_rest() -> None:
    pool = make_pool(CLUSTERS, UNSTABLE)
    orders = {tuple(rank(pool, Xmas(within_cluster="random"), seed).order.tolist()) for seed in range(20)}
    assert len(orders) > 10
    clusters = rank(pool).clusters.tolist()
    for order in orders:
        assert [CLUSTERS[row] for row in order] == clusters
    firsts = {order[0] for order in orders}
    assert firsts == {0, 2, 4, 6, 7}  # any of cluster 4 may come first


def test_random_within_clusters_keeps_the_instability_as_a_fact() -> None:
    ranking = rank(make_pool(CLUSTERS, UNSTABLE), Xmas(within_cluster="random"))
    assert ranking.instability.tolist() == [UNSTABLE[row] for row in ranking.order]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        # Cluster 7 has three members (rows 0 3 5), 8 has two (1 4), 9 has one (2); all by uid.
        ("keep", [0, 1, 2, 3, 4, 5]),
        ("refill", [0, 3, 5, 1, 2, 4]),
        ("drop", [0, 3, 5]),
    ],
)
def test_small_clusters_by_policy(policy: str, expected: list[int]) -> None:
    pool = make_pool([7, 8, 9, 7, 8, 7], [1.0] * 6)
    assert rank(pool, Xmas(small_clusters=policy)).order.tolist() == expected  # type: ignore[arg-type]


def test_only_small_clusters_dropped_leave_nothing() -> None:
    pool = make_pool([7, 8, 7], [1.0] * 3)
    assert rank(pool, Xmas(small_clusters="drop")).order.tolist() == []
    assert rank(pool, Xmas(small_clusters="refill")).order.tolist() == [0, 1, 2]


TEXT = [0, None, 0, None, 0, None, None, 1, None, None]
"""Cluster 0: rows 0 2 4; cluster 1: row 7; text-only: 1 3 5 6 8 9, six of ten."""


def test_text_only_cluster_is_one_more_cluster_in_drawn_order() -> None:
    pool = make_pool(TEXT, [3, 2, 1, 0], "cluster")
    rankings = [rank(pool, seed=seed) for seed in range(30)]
    for ranking in rankings:
        # The text-only cluster has number 2 and is the largest: it leads every round.
        assert ranking.clusters.tolist() == [2, 0, 1, 2, 0, 2, 0, 2, 2, 2]
        assert [row for row in ranking.order if TEXT[row] is not None] == [4, 7, 2, 0]
        assert np.isnan(ranking.instability[ranking.clusters == 2]).all()
    drawn = {tuple(row for row in ranking.order.tolist() if TEXT[row] is None) for ranking in rankings}
    assert {first for first, *_ in drawn} == {1, 3, 5, 6, 8, 9}


def test_text_only_proportional_holds_its_share_in_every_prefix_in_drawn_order() -> None:
    pool = make_pool(TEXT, [3, 2, 1, 0], "proportional")
    rankings = [rank(pool, seed=seed) for seed in range(30)]
    for ranking in rankings:
        is_text = [TEXT[row] is None for row in ranking.order]
        assert [sum(is_text[:length]) for length in range(11)] == [6 * length // 10 for length in range(11)]
        assert ranking.clusters[np.array(is_text)].tolist() == [-1] * 6
        assert [row for row in ranking.order if TEXT[row] is not None] == [4, 7, 2, 0]
    drawn = {tuple(row for row in ranking.order.tolist() if TEXT[row] is None) for ranking in rankings}
    assert {first for first, *_ in drawn} == {1, 3, 5, 6, 8, 9}


def test_text_only_excluded_is_left_out() -> None:
    assert rank(make_pool(TEXT, [3, 2, 1, 0], "exclude")).order.tolist() == [4, 7, 2, 0]


def test_policy_for_text_does_not_change_the_order_of_the_images() -> None:
    method = Xmas(within_cluster="random")
    images = [
        [row for row in rank(make_pool(TEXT, [3, 2, 1, 0], text_only), method, 5).order.tolist() if TEXT[row] == 0]
        for text_only in ("cluster", "proportional", "exclude")
    ]
    assert images[0] == images[1] == images[2]


def test_small_text_only_cluster_follows_the_policy_for_small_clusters() -> None:
    pool = make_pool([0, None, 0, 0, None], [1.0] * 3, "cluster")
    assert rank(pool, Xmas(small_clusters="drop")).order.tolist() == [0, 2, 3]


def test_one_checkpoint_is_drawn_inside_clusters_and_has_no_instability() -> None:
    pool = make_pool(CLUSTERS, UNSTABLE)
    pool = CandidatePool(
        pool.uids, pool.has_image, {"alignment": pool.signals["alignment"][:, 1:]}, pool.cluster_ids, "proportional"
    )
    rankings = [rank(pool, seed=seed) for seed in range(20)]
    assert len({tuple(ranking.order.tolist()) for ranking in rankings}) > 10
    for ranking in rankings:
        assert ranking.clusters.tolist() == [4, 1, 2, 4, 1, 4, 1, 4, 4]
        assert np.isnan(ranking.instability).all()
