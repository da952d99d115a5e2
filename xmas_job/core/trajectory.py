"""Trajectories of alignment scores over checkpoints, and their instability."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

InstabilityKind = Literal["sum_abs", "sum_sq", "variance"]

# N examples, T checkpoints, k singular values, D entries of a step


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


def instability(trajectory_NT: NDArray[np.float32], kind: InstabilityKind = "sum_abs") -> NDArray[np.float64]:
    """How much a trajectory x(1..T) changes; of vectors (N, T, D) the sum over their entries.

    sum_abs    Σ_t |x(t+1) − x(t)|
    sum_sq     Σ_t (x(t+1) − x(t))²
    variance   1/T Σ_t (x(t) − mean x)²

    Source: XMAS, section 4 (sum_abs) and its ablation of the measure. With one checkpoint every value is 0.
    Choice: the paper does not say what it measures on vectors.

    Args:
        trajectory_NT: shape (N, T) or (N, T, D).
        kind: which measure.

    Returns:
        Shape (N,), not negative.
    """
    values = trajectory_NT.astype(np.float64)
    values = values[:, :, None] if values.ndim == 2 else values
    steps = np.diff(values, axis=1)
    changes = {
        "sum_abs": lambda: np.abs(steps).sum(axis=1),
        "sum_sq": lambda: np.square(steps).sum(axis=1),
        "variance": lambda: values.var(axis=1),
    }
    return np.asarray(changes[kind]().sum(axis=-1))
