"""Classes for a pool that has none: k-means clusters, the members nearest to each centroid, and a split of these.

Source: OFA's released selector training. Owns no network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xmas_job.core.similarity import blocks, members_of_clusters
from xmas_job.errors import UsageError

# N examples, D features, K clusters


@dataclass(frozen=True)
class PseudoLabels:
    """The core of every cluster with its cluster's number as label."""

    centroids: NDArray[np.float32]
    """Shape (K, D)."""
    train_rows: NDArray[np.int64]
    train_labels: NDArray[np.int64]
    validation_rows: NDArray[np.int64]
    validation_labels: NDArray[np.int64]


def mini_batch_kmeans(features_ND: NDArray[np.floating], num_clusters: int, seed: int) -> NDArray[np.float32]:
    """Centroids (K, D) of scikit-learn's MiniBatchKMeans with the release's settings.

    Raises:
        UsageError: if there are fewer examples than clusters.
    """
    from sklearn.cluster import MiniBatchKMeans

    if len(features_ND) < num_clusters:
        raise UsageError(
            f"{num_clusters} clusters of {len(features_ND)} examples with an image and a question.",
            f"Ask for at most {len(features_ND)} clusters.",
        )
    kmeans = MiniBatchKMeans(
        n_clusters=num_clusters,
        init="k-means++",
        n_init=10,
        max_iter=300,
        batch_size=8192,
        max_no_improvement=30,
        reassignment_ratio=0.01,
        random_state=seed,
    )
    kmeans.fit(np.asarray(features_ND, dtype=np.float32))
    return np.asarray(kmeans.cluster_centers_, dtype=np.float32)


def nearest_centroids(
    features_ND: NDArray[np.floating], centroids_KD: NDArray[np.floating]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Number of the nearest centroid and the Euclidean distance to it, shape (N,) each; ties by number."""
    clusters = np.empty(len(features_ND), dtype=np.int32)
    distances = np.empty(len(features_ND), dtype=np.float32)
    centroids = centroids_KD.astype(np.float64)
    lengths = (centroids**2).sum(axis=1)
    for rows in blocks(np.arange(len(features_ND))):
        block = np.asarray(features_ND[rows], dtype=np.float64)
        squared = (block**2).sum(axis=1)[:, None] - 2 * block @ centroids.T + lengths
        clusters[rows] = squared.argmin(axis=1)
        distances[rows] = np.sqrt(np.maximum(squared.min(axis=1), 0.0))
    return clusters, distances


def label_cores(
    features_ND: NDArray[np.floating],
    centroids_KD: NDArray[np.float32],
    *,
    core_share: float,
    validation_share: float,
    rng: np.random.Generator,
) -> PseudoLabels:
    """Per cluster the max(2, ceil(core_share * size)) nearest members; of these max(1, round(share)) to validate with.

    Choice: an empty cluster has no class member, and one of a single example only trains; ties go by row.
    """
    clusters, distances = nearest_centroids(features_ND, centroids_KD)
    train: list[NDArray[np.int64]] = []
    validation: list[NDArray[np.int64]] = []
    for members in members_of_clusters(clusters, len(centroids_KD)):
        size = max(2, int(np.ceil(core_share * members.size)))
        core = rng.permutation(members[np.argsort(distances[members], kind="stable")][:size])
        num_validation = max(1, round(validation_share * core.size)) if core.size > 1 else 0
        validation.append(core[:num_validation])
        train.append(core[num_validation:])
    train_rows, validation_rows = np.concatenate(train), np.concatenate(validation)
    return PseudoLabels(
        centroids=centroids_KD,
        train_rows=train_rows,
        train_labels=clusters[train_rows].astype(np.int64),
        validation_rows=validation_rows,
        validation_labels=clusters[validation_rows].astype(np.int64),
    )
