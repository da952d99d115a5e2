from __future__ import annotations

import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np

from tests.selection.small_pools import chosen_by, small_pool
from xmas_job.selection.coincide import Coincide
from xmas_job.selection.contract import CandidatePool

# Image half first, then text half. Cluster 5: rows 0 1 2, all alike but the last. Cluster 2: rows 3 4.
FEATURES = [[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0]]
CLUSTERS = [5, 5, 5, 2, 2]
# Text halves of the centroids at 60°: cosine 1/2, both clusters transfer 1/2.
CENTROIDS = np.zeros((6, 4))
CENTROIDS[5, 2:] = [1, 0]
CENTROIDS[2, 2:] = [0.5, 0.75**0.5]
CENTROIDS[[0, 1, 3, 4], 2] = 1


def pool() -> CandidatePool:
    return small_pool({"coincide": FEATURES}, clusters=CLUSTERS, centroids=CENTROIDS)


def test_allocation_and_choice_by_hand() -> None:
    # Densities: cluster 2 has 1; cluster 5 (5 + 4 / e) / 9 = 0.719. Scores: 0.5 and 0.695; odds exp(1.95) = 7.05 at
    # temperature 0.1: of 2 places round(1.75) = 2 go to cluster 5; of 4, round(3.50) = 4, but it has 3: one is left.
    # Inside: row 0 stands for two of three. With it, row 1 leaves the sum (2 * 1 + 1) / 4 - r1, row 2
    # (2 / e + 1) / 4 - r2, with r1 = (2 + 1 / e) / 3 = 0.789 and r2 = (1 + 2 / e) / 3 = 0.579: -0.039 and -0.145.
    assert chosen_by(Coincide(), pool(), 2) == [0, 2]
    assert chosen_by(Coincide(), pool(), 4) == [0, 2, 1, 3]
    # At a high temperature both get the same: round(1) of 2.
    assert chosen_by(Coincide(temperature=1e6), pool(), 2) == [0, 3]


def test_image_halves_of_centroids_say_nothing() -> None:
    loud = CENTROIDS.copy()
    loud[:, :2] = np.random.default_rng(0).normal(size=(6, 2))
    other = small_pool({"coincide": FEATURES}, clusters=CLUSTERS, centroids=loud)
    assert [chosen_by(Coincide(), other, budget) for budget in range(6)] == [
        chosen_by(Coincide(), pool(), budget) for budget in range(6)
    ]


def test_subsets_are_nested_though_no_ranking_says_so() -> None:
    rng = np.random.default_rng(4)
    for _ in range(5):
        many = small_pool(
            {"coincide": rng.normal(size=(40, 6))},
            clusters=rng.integers(0, 6, 40).tolist(),
            centroids=rng.normal(size=(6, 6)),
        )
        chosen = [set(chosen_by(Coincide(), many, budget)) for budget in range(41)]
        assert all(smaller < larger for smaller, larger in pairwise(chosen))


def test_mapped_features_are_never_held_whole(tmp_path: Path) -> None:
    """A gigabyte has no room in a test: 16 MB in half precision, 64 clusters of 64 rows, and a peak far below."""
    features = np.lib.format.open_memmap(tmp_path / "f.npy", mode="w+", dtype=np.float16, shape=(4096, 2048))
    features[:] = np.random.default_rng(0).normal(size=(4096, 2048)) / 45
    features.flush()
    mapped = np.load(tmp_path / "f.npy", mmap_mode="r")
    many = CandidatePool(
        uids=np.char.mod("%06d", np.arange(4096)),
        has_image=np.ones(4096, dtype=bool),
        signals={"coincide": mapped},
        cluster_ids=(np.arange(4096) % 64).astype(np.int32),
        text_only="exclude",
        centroids=np.random.default_rng(1).normal(size=(64, 2048)).astype(np.float32),
    )
    tracemalloc.start()
    try:
        assert len(chosen_by(Coincide(), many, 600)) == 600
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000
