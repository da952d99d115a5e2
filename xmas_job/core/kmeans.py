"""K-means (faiss), with everything explicit that the result depends on.

Bit-identical for one order of the rows and one seed, whatever the number of threads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xmas_job.core.similarity import unit_rows
from xmas_job.errors import BadDataError, UsageError

# N examples, D features, K clusters

ROWS_AT_ONCE = 16_384
"""Rows assigned at once; a multiple of faiss's own block, so that it changes no bit."""


LEAST_POINTS = 39
"""Rows a cluster that faiss wants at least to train on, and below which it warns."""

Allocate = Callable[[tuple[int, int]], NDArray[np.float32]]
"""Shape -> an array to fill."""


def supported_clusters(most: int, num_rows: int) -> int:
    """K for a pool that may be small: at most `most`, and 39 rows a cluster on average.

    Choice: papers name one K for pools of several hundred thousand; below faiss's own minimum of rows a cluster,
    centroids are hardly more than single examples.
    """
    return max(1, min(most, num_rows // LEAST_POINTS))


def in_memory(shape: tuple[int, int]) -> NDArray[np.float32]:
    """An array of its own."""
    return np.empty(shape, dtype=np.float32)


@dataclass(frozen=True)
class Clustering:
    """Clusters are numbered 0..K-1 as faiss numbers them; some may be empty."""

    assignments: NDArray[np.int32]
    """Shape (N,): cluster of each row."""
    distances: NDArray[np.float32]
    """Shape (N,): Euclidean distance to the own centroid, not squared."""
    centroids: NDArray[np.float32]
    """Shape (K, D)."""
    sizes: NDArray[np.int64]
    """Shape (K,)."""


def cluster(
    features_ND: NDArray[np.floating],
    *,
    num_clusters: int,
    num_iterations: int,
    max_points_per_centroid: int,
    seed: int,
    spherical: bool = False,
    allocate: Allocate = in_memory,
) -> Clustering:
    """K-means on the raw features under the Euclidean distance, or on their directions.

    Source: XMAS appendix C (K = 1000, 100 iterations). Choice: the rows keep the order given, since k-means depends
    on it; callers sort by uid. Choice: one thread is not required, faiss gives the same bits for any number.
    Choice: it runs around the mean row, which changes no distance: faiss takes |x|^2 - 2xc + |c|^2 in float32, and
    far from the origin that assigns rows to clusters that are not the nearest.

    Holds one block of rows beside the rows it trains on, which `allocate` may put into a file.

    Args:
        features_ND: shape (N, D), may be memory-mapped.
        num_clusters: K.
        num_iterations: Lloyd iterations.
        max_points_per_centroid: k-means trains on a seeded sub-sample of at most K times as many rows.
        seed: of the sub-sample and the initial centroids.
        spherical: rows and centroids are unit vectors, compared by cosine. Source: SemDeDup and COINCIDE.
        allocate: gives the array of the rows to train on; memory-mapped where they do not fit in memory.

    Raises:
        UsageError: if K is larger than the number of distinct rows.
        BadDataError: if a feature is not finite.
    """
    import faiss

    _require_finite(features_ND)
    num_distinct = count_distinct(features_ND, limit=num_clusters)
    if num_clusters > num_distinct:
        raise UsageError(
            f"cluster.num_clusters is {num_clusters}, but there are only {num_distinct} distinct feature rows.",
            f"Set cluster.num_clusters to at most {num_distinct}.",
        )
    kmeans = faiss.Kmeans(
        features_ND.shape[1],
        num_clusters,
        niter=num_iterations,
        seed=seed,
        nredo=1,
        spherical=spherical,
        min_points_per_centroid=1,
        max_points_per_centroid=max_points_per_centroid,
        gpu=False,
    )
    origin_D = np.zeros(features_ND.shape[1], dtype=np.float32)
    if not spherical:
        origin_D = features_ND.mean(axis=0, dtype=np.float64).astype(np.float32)

    def prepared(rows: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        block = np.ascontiguousarray(features_ND[rows], dtype=np.float32)
        return unit_rows(block) if spherical else block - origin_D

    chosen = _training_rows(len(features_ND), num_clusters * max_points_per_centroid, seed)
    training = allocate((chosen.size, features_ND.shape[1]))
    for rows in _runs(chosen.size):
        training[rows] = prepared(chosen[rows])
    kmeans.train(training)
    centroids = np.asarray(kmeans.centroids, dtype=np.float32)
    assignments = np.empty(len(features_ND), dtype=np.int32)
    distances = np.empty(len(features_ND), dtype=np.float32)
    for rows in _runs(len(features_ND)):
        block = prepared(rows)
        assignments[rows] = kmeans.index.search(block, 1)[1][:, 0]
        distances[rows] = np.linalg.norm(block - centroids[assignments[rows]], axis=1)
    return Clustering(
        assignments=assignments,
        distances=distances,
        centroids=centroids + origin_D,
        sizes=np.bincount(assignments, minlength=num_clusters).astype(np.int64),
    )


def count_distinct(features_ND: NDArray[np.floating], *, limit: int) -> int:
    """Number of distinct rows, counted no further than `limit`."""
    seen: set[bytes] = set()  # digests: rows may be long
    for rows in _runs(len(features_ND)):
        # + 0.0 makes -0.0 and 0.0 the same bytes.
        for row in np.asarray(features_ND[rows], dtype=np.float32) + np.float32(0.0):
            seen.add(hashlib.blake2b(row.tobytes(), digest_size=16).digest())
            if len(seen) >= limit:
                return limit
    return len(seen)


def _training_rows(num_rows: int, limit: int, seed: int) -> NDArray[np.int64]:
    """All rows, or a seeded sub-sample of `limit` in their order."""
    if num_rows <= limit:
        return np.arange(num_rows)
    return np.sort(np.random.default_rng(seed).choice(num_rows, limit, replace=False))


def _require_finite(features_ND: NDArray[np.floating]) -> None:
    broken: list[int] = []
    for rows in _runs(len(features_ND)):
        broken.extend(rows.start + np.flatnonzero(~np.isfinite(features_ND[rows]).all(axis=1)))
    if broken:
        raise BadDataError(
            f"{len(broken)} of {len(features_ND)} feature rows are not finite (first row: {broken[0]}).",
            "A checkpoint is broken: look at the loss of the proxy's training.",
        )


def _runs(num_rows: int) -> Iterator[slice]:
    for start in range(0, num_rows, ROWS_AT_ONCE):
        yield slice(start, start + ROWS_AT_ONCE)
