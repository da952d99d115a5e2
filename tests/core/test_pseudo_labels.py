from __future__ import annotations

import numpy as np
import pytest

from xmas_job.core.pseudo_labels import label_cores, mini_batch_kmeans, nearest_centroids
from xmas_job.errors import UsageError

PLACES = np.array([[0.0], [1], [2], [3], [10], [11], [50]], dtype=np.float32)
CENTROIDS = np.array([[0.0], [10], [50], [900]], dtype=np.float32)


def test_nearest_centroid_by_hand() -> None:
    clusters, distances = nearest_centroids(PLACES, CENTROIDS)
    assert clusters.tolist() == [0, 0, 0, 0, 1, 1, 2]
    assert distances.tolist() == [0, 1, 2, 3, 0, 1, 0]


def test_cores_are_the_nearest_members_and_are_split() -> None:
    # 60 % of four is 3 (rounded up): rows 0 1 2, of which round(0.8) = 1 validates; two of two, one of them; the lone
    # member of cluster 2 only trains; cluster 3 is empty.
    labels = label_cores(PLACES, CENTROIDS, core_share=0.6, validation_share=0.25, rng=np.random.default_rng(0))
    assert sorted([*labels.train_rows, *labels.validation_rows]) == [0, 1, 2, 4, 5, 6]
    assert sorted(labels.train_labels.tolist()) == [0, 0, 1, 2]
    assert sorted(labels.validation_labels.tolist()) == [0, 1]
    number = dict(zip(range(7), [0, 0, 0, 0, 1, 1, 2], strict=True))
    assert [number[int(row)] for row in labels.train_rows] == labels.train_labels.tolist()


def test_a_core_has_at_least_two() -> None:
    labels = label_cores(PLACES, CENTROIDS, core_share=0.01, validation_share=0.2, rng=np.random.default_rng(0))
    assert sorted([*labels.train_rows, *labels.validation_rows]) == [0, 1, 4, 5, 6]


def test_split_follows_the_generator() -> None:
    splits = {
        tuple(
            label_cores(
                PLACES, CENTROIDS, core_share=0.6, validation_share=0.25, rng=np.random.default_rng(seed)
            ).validation_rows.tolist()
        )
        for seed in range(20)
    }
    assert {first for first, _ in splits} == {0, 1, 2}


def test_kmeans_finds_separate_heaps_and_repeats_itself() -> None:
    rng = np.random.default_rng(0)
    features = (100 * np.eye(3)[rng.integers(0, 3, 300)] + rng.normal(size=(300, 3))).astype(np.float32)
    first, again = (mini_batch_kmeans(features, 3, seed=42) for _ in range(2))
    assert first.tobytes() == again.tobytes()
    assert sorted(first.argmax(axis=1).tolist()) == [0, 1, 2]
    assert first.max(axis=1) == pytest.approx(100, abs=1)


def test_more_clusters_than_examples_are_refused() -> None:
    with pytest.raises(UsageError, match="8 clusters of 7 examples"):
        mini_batch_kmeans(PLACES, 8, seed=0)
