from __future__ import annotations

import numpy as np
import pytest

from xmas_job.core.trajectory import alignment_scores, instability


def test_score_is_the_sum_of_the_singular_values() -> None:
    values = np.array([[3.0, 1.5, 0.25], [2.0, 0.0, 0.0]], dtype=np.float32)
    scores = alignment_scores(values)
    assert scores.tolist() == [4.75, 2.0]
    assert scores.dtype == np.float32


def test_score_is_summed_in_float64() -> None:
    # In float32, 2^24 + 1 is 2^24 again: added one by one, the ones would be lost.
    values = np.array([[2.0**24, 1.0, 1.0, 1.0, 1.0]], dtype=np.float32)
    assert alignment_scores(values).tolist() == [2.0**24 + 4]


def test_instability_sums_the_absolute_steps() -> None:
    trajectories = np.array([[1.0, 3.0, 2.5, 2.5], [4.0, 4.0, 4.0, 4.0], [0.0, -1.0, 1.0, -2.0]], dtype=np.float32)
    assert instability(trajectories).tolist() == [2.5, 0.0, 6.0]


def test_instability_is_taken_in_float64() -> None:
    trajectory = np.array([[30.0, 0.1, 30.0, 0.1]], dtype=np.float32)
    step = 30.0 - float(np.float32(0.1))  # more digits than a float32 holds
    assert float(instability(trajectory)[0]) == pytest.approx(3 * step, rel=1e-15)


def test_one_checkpoint_has_no_steps() -> None:
    assert instability(np.array([[7.0], [3.0]], dtype=np.float32)).tolist() == [0.0, 0.0]


def test_no_examples_have_no_instability() -> None:
    assert instability(np.empty((0, 7), dtype=np.float32)).shape == (0,)
    assert alignment_scores(np.empty((0, 5), dtype=np.float32)).shape == (0,)


def test_other_measures_by_hand() -> None:
    """Steps 1 and -2: squares 1 + 4; values 0, 1, -1 have mean 0 and variance 2/3."""
    trajectory = np.array([[0.0, 1.0, -1.0]], dtype=np.float32)
    assert instability(trajectory, "sum_sq").tolist() == [5.0]
    assert instability(trajectory, "variance").tolist() == pytest.approx([2 / 3])


def test_instability_of_vectors_adds_up_their_entries() -> None:
    """Two entries that move by 1 and 2, then by 3 and 0."""
    vectors = np.array([[[0.0, 5.0], [1.0, 3.0], [4.0, 3.0]]], dtype=np.float32)
    assert instability(vectors).tolist() == [6.0]
    assert instability(vectors, "sum_sq").tolist() == [14.0]
