from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from xmas_job.core.kmeans import Clustering, cluster, supported_clusters
from xmas_job.errors import BadDataError, UsageError

Features = NDArray[np.float32]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


def clustered(features: Any, num_clusters: int, **changes: int) -> Clustering:
    settings = {"num_iterations": 25, "max_points_per_centroid": 256, "seed": 3, **changes}
    return cluster(np.asarray(features, dtype=np.float32), num_clusters=num_clusters, **settings)


def bytes_of(result: Clustering) -> tuple[bytes, ...]:
    return tuple(a.tobytes() for a in (result.assignments, result.distances, result.centroids, result.sizes))


def blobs(num_rows: int, num_blobs: int, spread: float, offset: float = 0.0) -> tuple[Features, NDArray[np.int64]]:
    rng = np.random.default_rng(11)
    centres = 10 * np.eye(num_blobs, 7)
    truth = rng.integers(0, num_blobs, num_rows)
    return (offset + centres[truth] + spread * rng.normal(size=(num_rows, 7))).astype(np.float32), truth


def nearest(features: Features, result: Clustering) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The nearest centroid of every row and the Euclidean distance to it, in float64."""
    difference = features.astype(np.float64)[:, None] - result.centroids.astype(np.float64)[None]
    distances = np.sqrt((difference**2).sum(axis=2))
    return distances.argmin(axis=1), distances.min(axis=1)


def test_two_clusters_by_hand() -> None:
    result = clustered([[0, 0], [0, 4], [30, 0], [30, 0], [36, 8]], 2)
    left, right = result.assignments[[0, 2]]
    assert result.assignments.tolist() == [left, left, right, right, right]
    assert result.centroids[left].tolist() == pytest.approx([0, 2], abs=1e-5)
    assert result.centroids[right].tolist() == pytest.approx([32, 8 / 3], rel=1e-6)
    # Euclidean, not squared: (2, 8/3) is a 3-4-5 triangle of length 10/3, and (4, 16/3) its double.
    assert result.distances.tolist() == pytest.approx([2, 2, 10 / 3, 10 / 3, 20 / 3], rel=1e-6)
    assert {int(left): 2, int(right): 3} == dict(enumerate(result.sizes.tolist()))


def test_types_and_shapes() -> None:
    result = clustered(blobs(60, 3, 0.1)[0], 4)
    arrays = (result.assignments, result.distances, result.centroids, result.sizes)
    assert [array.dtype.name for array in arrays] == ["int32", "float32", "float32", "int64"]
    assert [array.shape for array in arrays] == [(60,), (60,), (4, 7), (4,)]


def test_separated_blobs_are_found() -> None:
    features, truth = blobs(600, 5, spread=0.3)
    result = clustered(features, 5)
    pairs = set(zip(truth.tolist(), result.assignments.tolist(), strict=True))
    assert len(pairs) == 5
    assert len({found for _, found in pairs}) == 5
    assert result.sizes.tolist() == [int((result.assignments == k).sum()) for k in range(5)]
    assert result.sizes.sum() == 600


def test_same_bytes_every_time_and_for_any_number_of_threads() -> None:
    features, _ = blobs(20_000, 6, spread=2.0)
    settings = {"num_iterations": 8}
    once = bytes_of(clustered(features, 150, **settings))
    assert bytes_of(clustered(features, 150, **settings)) == once
    faiss.omp_set_num_threads(2)
    assert bytes_of(clustered(features, 150, **settings)) == once


def test_seed_changes_the_clusters() -> None:
    features, _ = blobs(2_000, 6, spread=2.0)
    assert bytes_of(clustered(features, 50, seed=1)) != bytes_of(clustered(features, 50, seed=2))


def test_input_is_left_as_it_was() -> None:
    features, _ = blobs(200, 3, spread=1.0)
    before = features.copy()
    clustered(features, 5)
    assert np.array_equal(features, before)


@pytest.mark.parametrize("offset", [0.0, 40.0, 400.0])
def test_rows_far_from_the_origin_go_to_their_nearest_centroid(offset: float) -> None:
    """Scores of one proxy lie close together, far from 0; |x|^2 - 2xc + |c|^2 would lose their differences."""
    features = (offset + 0.3 * np.random.default_rng(0).normal(size=(20_000, 7))).astype(np.float32)
    result = clustered(features, 200, num_iterations=5)
    expected, distances = nearest(features[:4_000], result)
    # The centroids are rounded where they are given back: a tie in a thousand falls the other way.
    assert (result.assignments[:4_000] != expected).mean() < 0.001
    np.testing.assert_allclose(result.distances[:4_000], distances, rtol=1e-3)


def test_sub_sample_of_the_training_rows_has_an_effect() -> None:
    features, _ = blobs(2_000, 6, spread=2.0)
    few, many = (clustered(features, 20, max_points_per_centroid=limit) for limit in (4, 256))
    assert not np.array_equal(few.centroids, many.centroids)
    # 100 is exactly the number of rows: all are used, as with any higher limit.
    assert bytes_of(clustered(features, 20, max_points_per_centroid=100)) == bytes_of(many)
    # Every row is assigned, whatever was trained on.
    assert few.sizes.sum() == 2_000


def test_iterations_have_an_effect() -> None:
    features, _ = blobs(2_000, 6, spread=2.0)
    short, long = (clustered(features, 20, num_iterations=count) for count in (1, 30))
    assert (long.distances.astype(np.float64) ** 2).sum() < (short.distances.astype(np.float64) ** 2).sum()


def test_as_many_clusters_as_distinct_rows() -> None:
    result = clustered([[float(row), 1.0] for row in range(4)], 4)
    assert sorted(result.assignments.tolist()) == [0, 1, 2, 3]
    assert result.distances.tolist() == pytest.approx([0.0] * 4, abs=1e-6)
    repeated = clustered([[float(row % 4), 1.0] for row in range(12)], 4)
    assert repeated.sizes.sum() == 12


def test_more_clusters_than_distinct_rows_are_refused_with_the_number() -> None:
    features = [[float(row % 4), 1.0] for row in range(12)]
    with pytest.raises(UsageError, match="num_clusters is 5, but there are only 4 distinct") as caught:
        clustered(features, 5)
    assert "at most 4" in caught.value.remedy


def test_no_rows_are_refused() -> None:
    with pytest.raises(UsageError, match="only 0 distinct"):
        clustered(np.empty((0, 7)), 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_feature_that_is_not_finite_is_refused_with_its_row(bad: float) -> None:
    features = np.ones((6, 3))
    features[4, 1] = features[5, 2] = bad
    with pytest.raises(BadDataError, match=r"2 of 6 feature rows are not finite \(first row: 4\)"):
        clustered(features, 1)


def test_spherical_clusters_are_directions_by_hand() -> None:
    rows = np.array([[1, 0], [50, 1], [0, 2], [1, 90]], dtype=np.float32)
    result = cluster(rows, num_clusters=2, num_iterations=20, max_points_per_centroid=9, seed=1, spherical=True)
    flat, steep = result.assignments[[0, 2]]
    assert result.assignments.tolist() == [flat, flat, steep, steep]
    assert np.linalg.norm(result.centroids, axis=1).tolist() == pytest.approx([1, 1], rel=1e-6)
    # Between the directions 0° and 1.146° lies 0.573°; the chord to it is 2 sin(0.2865°) = 0.01.
    assert result.distances[:2].tolist() == pytest.approx([0.01, 0.01], rel=1e-2)


def test_training_rows_come_from_everywhere() -> None:
    """In order of the rows, the first hundred hold one of two heaps: a prefix would never see the other."""
    features = np.repeat([[0.0, 0.0], [30.0, 0.0]], 1000, axis=0) + np.random.default_rng(0).normal(size=(2000, 2))
    result = clustered(features, 2, max_points_per_centroid=50)
    assert sorted(result.sizes.tolist()) == [1000, 1000]


def test_mapped_half_precision_rows_give_what_an_array_gives(tmp_path: Path) -> None:
    features = blobs(300, 3, 0.1)[0].astype(np.float16)
    np.save(tmp_path / "features.npy", features)
    settings: Any = {"num_clusters": 3, "num_iterations": 10, "max_points_per_centroid": 64, "seed": 2}
    mapped = cluster(np.load(tmp_path / "features.npy", mmap_mode="r"), **settings)
    assert bytes_of(mapped) == bytes_of(cluster(features.astype(np.float32), **settings))


@pytest.mark.parametrize(
    ("num_rows", "num_clusters"), [(1, 1), (38, 1), (78, 2), (79, 2), (389, 9), (390, 10), (10_000, 10)]
)
def test_small_pool_lowers_k_to_39_rows_a_cluster(num_rows: int, num_clusters: int) -> None:
    assert supported_clusters(10, num_rows) == num_clusters


@pytest.mark.parametrize("spherical", [False, True])
def test_rows_to_train_on_may_lie_in_a_file(tmp_path: Path, spherical: bool) -> None:
    features, _ = blobs(300, 3, 0.5)
    asked: list[tuple[int, int]] = []

    def mapped(shape: tuple[int, int]) -> Features:
        asked.append(shape)
        return np.memmap(tmp_path / "rows", dtype=np.float32, mode="w+", shape=shape)

    settings = {"num_clusters": 4, "num_iterations": 20, "max_points_per_centroid": 50, "seed": 3}
    result = cluster(features, **settings, spherical=spherical, allocate=mapped)
    assert bytes_of(result) == bytes_of(cluster(features, **settings, spherical=spherical))
    assert asked == [(200, 7)]
