"""The Gaussian kernel of one cluster, and the greedy subset whose mean embedding is nearest to the cluster's.

Holds n x n only below a limit; above it, columns are computed when they are asked for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xmas_job.core.similarity import BLOCK, blocks, read_rows

# n members of one cluster, m chosen, D features

HELD = 2048
"""Clusters up to this size keep their kernel in memory: 34 MB of float64."""


class GaussianKernel:
    """K_ij = exp(-|x_i - x_j|² / (2 sigma²)) over some rows of the features, in float64."""

    def __init__(
        self, features_ND: NDArray[np.floating], rows_n: NDArray[np.integer], sigma: float, held: int = HELD
    ) -> None:
        self._features = features_ND
        self._rows = rows_n
        self._sigma = sigma
        self._whole = self._tile(rows_n, rows_n) if rows_n.size <= held else None

    def row_means(self) -> NDArray[np.float64]:
        """Mean of each row, the diagonal included, shape (n,)."""
        if self._whole is not None:
            return np.asarray(self._whole.mean(axis=1))
        sums = [
            sum(self._tile(part, other).sum(axis=1) for other in blocks(self._rows, BLOCK))
            for part in blocks(self._rows, BLOCK)
        ]
        return np.concatenate(sums) / self._rows.size

    def column(self, place: int) -> NDArray[np.float64]:
        """Kernel of every member with the member at `place`, shape (n,)."""
        if self._whole is not None:
            return np.asarray(self._whole[:, place])
        one = self._rows[place : place + 1]
        return np.concatenate([self._tile(part, one)[:, 0] for part in blocks(self._rows, BLOCK)])

    def _tile(self, rows: NDArray[np.integer], columns: NDArray[np.integer]) -> NDArray[np.float64]:
        left = read_rows(self._features, rows).astype(np.float64)
        right = left if columns is rows else read_rows(self._features, columns).astype(np.float64)
        squared = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None] - 2 * left @ right.T
        squared = np.where(rows[:, None] == columns[None], 0.0, np.maximum(squared, 0.0))
        return np.asarray(np.exp(-squared / (2 * self._sigma**2)))


def greedy_mmd(kernel: GaussianKernel, row_means_n: NDArray[np.float64], num_chosen: int) -> NDArray[np.int64]:
    """Members in the order in which each makes MMD² between the chosen and the cluster smallest.

    MMD²(S) = mean(K) + mean(K_SS) - 2 mean(K_·S), S with the candidate. With s = |S|, r the row means and c the
    column sums over the chosen, only (2 c_j + 1) / s² - 2 r_j / s differs between candidates j: O(n m) in all.
    Source: COINCIDE, section 3.3. Ties go by place.

    Returns:
        Places among the members, shape (m,).
    """
    chosen = np.empty(num_chosen, dtype=np.int64)
    sums = np.zeros(row_means_n.size)
    is_free = np.ones(row_means_n.size, dtype=bool)
    for step in range(num_chosen):
        size = step + 1
        gain = np.where(is_free, (2 * sums + 1) / size**2 - 2 * row_means_n / size, np.inf)
        chosen[step] = int(gain.argmin())
        is_free[chosen[step]] = False
        sums += kernel.column(int(chosen[step]))
    return chosen
