"""K-means on trajectories (faiss), with everything explicit that the result depends on.

Bit-identical for one order of the rows and one seed, whatever the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xmas_job.errors import BadDataError, UsageError

# N examples, D features, K clusters


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
    features_ND: NDArray[np.float32],
    *,
    num_clusters: int,
    num_iterations: int,
    max_points_per_centroid: int,
    seed: int,
) -> Clustering:
    """K-means under the Euclidean distance on the raw features.

    Source: XMAS appendix C (K = 1000, 100 iterations). Choice: the rows keep the order given, since k-means depends
    on it; callers sort by uid. Choice: one thread is not required, faiss gives the same bits for any number.
    Choice: it runs around the mean row, which changes no distance: faiss takes |x|^2 - 2xc + |c|^2 in float32, and
    far from the origin that assigns rows to clusters that are not the nearest.

    Args:
        features_ND: shape (N, D).
        num_clusters: K.
        num_iterations: Lloyd iterations.
        max_points_per_centroid: k-means trains on a seeded sub-sample of at most K times as many rows.
        seed: of the sub-sample and the initial centroids.

    Raises:
        UsageError: if K is larger than the number of distinct rows.
        BadDataError: if a feature is not finite.
    """
    import faiss

    features = np.ascontiguousarray(features_ND, dtype=np.float32)
    if not np.isfinite(features).all():
        rows = np.flatnonzero(~np.isfinite(features).all(axis=1))
        raise BadDataError(
            f"{rows.size} of {len(features)} feature rows are not finite (first row: {rows[0]}).",
            "A checkpoint is broken: look at the loss of the proxy's training.",
        )
    num_distinct = len(np.unique(features, axis=0))
    if num_clusters > num_distinct:
        raise UsageError(
            f"cluster.num_clusters is {num_clusters}, but there are only {num_distinct} distinct trajectories.",
            f"Set cluster.num_clusters to at most {num_distinct}.",
        )
    kmeans = faiss.Kmeans(
        features.shape[1],
        num_clusters,
        niter=num_iterations,
        seed=seed,
        nredo=1,
        spherical=False,
        min_points_per_centroid=1,
        max_points_per_centroid=max_points_per_centroid,
        gpu=False,
    )
    mean_D = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = features - mean_D
    kmeans.train(centred)
    assignments = kmeans.index.search(centred, 1)[1][:, 0].astype(np.int32)
    centroids = np.asarray(kmeans.centroids, dtype=np.float32)
    return Clustering(
        assignments=assignments,
        distances=np.linalg.norm(centred - centroids[assignments], axis=1),
        centroids=centroids + mean_D,
        sizes=np.bincount(assignments, minlength=num_clusters).astype(np.int64),
    )
