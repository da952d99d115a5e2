"""Trajectories of alignment scores over checkpoints, and their instability."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# N examples, T checkpoints, k singular values


def alignment_scores(singular_values_Nk: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sum of the top-k singular values of each cross-modal block.

    Source: XMAS, section 4: the score of an example at a checkpoint.

    Args:
        singular_values_Nk: shape (N, k).

    Returns:
        Shape (N,), summed in float64.
    """
    scores: NDArray[np.float64] = singular_values_Nk.sum(axis=1, dtype=np.float64)
    return scores.astype(np.float32)


def instability(trajectory_NT: NDArray[np.float32]) -> NDArray[np.float64]:
    """Sum over t of |score(t+1) - score(t)|.

    Source: XMAS, section 4. With one checkpoint there is no change to sum: every value is 0.

    Args:
        trajectory_NT: shape (N, T).

    Returns:
        Shape (N,), not negative.
    """
    steps: NDArray[np.float64] = np.abs(np.diff(trajectory_NT.astype(np.float64), axis=1))
    return np.asarray(steps.sum(axis=1))
