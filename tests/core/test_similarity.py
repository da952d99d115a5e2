"""Blocked cosines against all pairs at once; small cases by hand."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmas_job.core.similarity import (
    cosine_to_centroid,
    largest_cosine_to_earlier,
    members_of_clusters,
    transferability,
)
from xmas_job.errors import BadDataError

AXES = np.array([[3, 0], [0, 2], [5, 5], [0, 7], [-1, 0]], dtype=np.float32)


def test_largest_cosine_to_earlier_by_hand() -> None:
    # (1,0); (0,1): 0; the diagonal: cos 45°; (0,1) again: 1 with the second; (-1,0): 0 with (0,1), best of -1 0 -.71 0.
    expected = [-1.0, 0.0, np.sqrt(0.5), 1.0, 0.0]
    assert largest_cosine_to_earlier(AXES, np.arange(5)).tolist() == pytest.approx(expected, abs=1e-6)
    # In another order: (0,7), (0,2): 1, (-1,0): 0.
    assert largest_cosine_to_earlier(AXES, np.array([3, 1, 4])).tolist() == pytest.approx([-1, 1, 0], abs=1e-6)


@given(num_rows=st.integers(1, 23), block=st.integers(1, 9), seed=st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_largest_cosine_to_earlier_against_all_pairs(num_rows: int, block: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(num_rows, 3)).astype(np.float32)
    order = rng.permutation(num_rows)
    unit = features[order] / np.linalg.norm(features[order], axis=1, keepdims=True)
    expected = [max((float(unit[j] @ unit[i]) for i in range(j)), default=-1.0) for j in range(num_rows)]
    found = largest_cosine_to_earlier(features, order, block)
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_cosine_to_own_centroid_by_hand() -> None:
    centroids = np.array([[9, 9], [0, 2], [4, 0]], dtype=np.float32)
    cosines = cosine_to_centroid(AXES, np.array([2, 2, 1, 1, 2]), centroids)
    assert cosines.tolist() == pytest.approx([1, 0, np.sqrt(0.5), 1, -1], abs=1e-6)


def test_members_by_cluster() -> None:
    members = members_of_clusters(np.array([2, 0, 2, 0, 0]), 4)
    assert [rows.tolist() for rows in members] == [[1, 3, 4], [], [0, 2], []]


def test_transferability_by_hand() -> None:
    # Cosines: a-b 0.8, a-c 0, b-c 0.6, c-d 1 (too alike), a-d 0, b-d 0.6.
    directions = np.array([[1, 0], [0.8, 0.6], [0, 1], [0, 2]], dtype=np.float32)
    expected = [0.8 / 3, (0.8 + 0.6 + 0.6) / 3, 0.6 / 2, 0.6 / 2]
    for block in (1, 2, 9):
        assert transferability(directions, 0.9, block).tolist() == pytest.approx(expected, abs=1e-6)


def test_transferability_is_zero_where_nothing_is_left() -> None:
    assert transferability(np.ones((3, 2), dtype=np.float32), 0.9).tolist() == [0, 0, 0]
    assert transferability(np.ones((1, 2), dtype=np.float32), 0.9).tolist() == [0]


@pytest.mark.parametrize(("bad", "says"), [(np.nan, "not finite"), (0.0, "zero")])
def test_row_without_a_direction_is_refused(bad: float, says: str) -> None:
    features = AXES.copy()
    features[2] = bad
    with pytest.raises(BadDataError, match=says):
        largest_cosine_to_earlier(features, np.arange(5))


def test_mapped_features_are_never_held_whole(tmp_path: Path) -> None:
    """16 MB of features, blocks of 128 rows (0.1 MB in float32): the peak stays below two of them and their tile."""
    features = np.lib.format.open_memmap(tmp_path / "f.npy", mode="w+", dtype=np.float16, shape=(4096, 2048))
    features[:] = np.random.default_rng(0).normal(size=(4096, 2048))
    features.flush()
    mapped = np.load(tmp_path / "f.npy", mmap_mode="r")
    tracemalloc.start()
    try:
        largest_cosine_to_earlier(mapped, np.arange(512), 64)
        cosine_to_centroid(mapped, np.arange(4096) % 64, np.ones((64, 2048), dtype=np.float32))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6_000_000
