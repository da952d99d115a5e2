"""Exact samples of a k-DPP: subsets of k items with probability proportional to the determinant of their kernel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# n items, k chosen


def log_elementary_polynomials(log_values_n: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Log e_j of the first i values: shape (k + 1, n + 1), -inf where e_j is 0.

    Source: Kulesza and Taskar 2012, algorithm 7. In logarithms, because e_64 of small eigenvalues underflows.
    """
    table = np.full((k + 1, log_values_n.size + 1), -np.inf)
    table[0] = 0.0
    for i, log_value in enumerate(log_values_n):
        table[1:, i + 1] = np.logaddexp(table[1:, i], log_value + table[:-1, i])
    return table


def sample_k_dpp(kernel_nn: NDArray[np.float64], k: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """K distinct items with P(S) = det(L_S) / e_k(eigenvalues).

    Source: Kulesza and Taskar 2012, algorithms 1 and 8: eigenvectors by the elementary polynomials, then items of
    the projection on them, conditioning by one Cholesky column an item.

    Args:
        kernel_nn: L, symmetric and positive definite; callers add their jitter.
        k: at most n.
        rng: source of randomness.

    Returns:
        Shape (k,), in the order of drawing.
    """
    values, vectors = np.linalg.eigh(kernel_nn)
    # What rounding leaves below the smallest meaningful eigenvalue counts as that one.
    log_values = np.log(np.maximum(values, np.finfo(np.float64).eps * values[-1]))
    basis = vectors[:, _eigenvectors(log_values, k, rng)]
    projection = basis @ basis.T
    left = np.maximum(np.diag(projection), 0.0)
    columns = np.zeros((k, values.size))
    chosen = np.empty(k, dtype=np.int64)
    for step in range(k):
        item = int(np.searchsorted(np.cumsum(left), rng.random() * left.sum(), side="right"))
        item = min(item, int(np.flatnonzero(left)[-1]))
        chosen[step] = item
        column = (projection[:, item] - columns[:step].T @ columns[:step, item]) / np.sqrt(left[item])
        columns[step] = column
        left = np.maximum(left - column**2, 0.0)
        left[chosen[: step + 1]] = 0.0
    return chosen


def _eigenvectors(log_values_n: NDArray[np.float64], k: int, rng: np.random.Generator) -> list[int]:
    """K eigenvectors, a set J with probability proportional to the product of its eigenvalues."""
    table = log_elementary_polynomials(log_values_n, k)
    chosen: list[int] = []
    for i in range(log_values_n.size, 0, -1):
        needed = k - len(chosen)
        if needed == 0:
            break
        take = log_values_n[i - 1] + table[needed - 1, i - 1] - table[needed, i]
        if i == needed or np.log(rng.random()) < take:
            chosen.append(i - 1)
    return chosen
