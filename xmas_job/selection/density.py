"""Density: a draw that prefers sparse regions of the loss and alignment trajectories. A candidate of our own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xmas_job.core.neighbours import nearest_neighbours
from xmas_job.selection.contract import CandidatePool, Ranking
from xmas_job.selection.strata import rank_by_score


@dataclass(frozen=True)
class Density:
    """Sampling without replacement with weight (distance to the k-th neighbour) ** power, plus a uniform share.

    Space: [log loss ++ alignment] over the checkpoints, each column z-scored. The order of keys Exp(1) / weight is the
    order of successive draws, so every prefix is such a sample (Efraimidis and Spirakis 2006).

    It seeks what is unlike the rest, noise included: on synthetic trajectories, garbage off all families came 6 to 8
    times as often as its share at power 2, and 2 to 3 times at power 1. Clean the pool first.
    """

    num_neighbours: int = 20
    power: float = 2.0
    uniform_share: float = 0.25
    """Share of the weight that is spread evenly, so that dense regions are never closed."""
    smallest_loss: float = 1e-6
    """Losses count as no smaller, in nats, before their logarithm is taken."""
    seed: int = 0
    """Of the cells in which neighbours are searched when the pool is large."""

    def rank(self, pool: CandidatePool, rng: np.random.Generator) -> Ranking:
        """Needs "loss" (M, T) and "alignment" (M, T)."""
        if not pool.has_image.any():
            return rank_by_score(pool, np.empty(0), rng)
        losses = np.log(np.maximum(pool.signal("loss").astype(np.float64), self.smallest_loss))
        columns = np.concatenate([losses, pool.signal("alignment").astype(np.float64)], axis=1)
        spread = columns.std(axis=0)
        centred = columns - columns.mean(axis=0)
        # A column that does not vary tells nothing apart. Rounding may leave it a spread of its last bits.
        varies = spread > 1e-9 * np.abs(columns).max(axis=0, initial=0.0)
        space = np.where(varies, centred / np.where(varies, spread, 1.0), 0.0).astype(np.float32)
        return rank_by_score(pool, rng.exponential(size=len(space)) / self._weights(space), rng)

    def _weights(self, space: NDArray[np.float32]) -> NDArray[np.float64]:
        """Of each row, shape (M,), summing to 1."""
        num_neighbours = min(self.num_neighbours, len(space) - 1)
        even = np.full(len(space), 1 / max(len(space), 1))
        if num_neighbours < 1:
            return even
        _, squared = nearest_neighbours(space, num_neighbours, seed=self.seed)
        sparse = squared[:, -1].astype(np.float64) ** (self.power / 2)
        if sparse.sum() == 0:
            return even
        return np.asarray((1 - self.uniform_share) * sparse / sparse.sum() + self.uniform_share * even)
