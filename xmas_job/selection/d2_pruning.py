"""D2 pruning: hard to beat where it is dense, by message passing on a k-NN graph (arXiv 2310.07931)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xmas_job.core.message_passing import hear_neighbours, silencing_order
from xmas_job.core.neighbours import nearest_neighbours
from xmas_job.selection.contract import CandidatePool, Ranking
from xmas_job.selection.strata import rank_images


@dataclass(frozen=True)
class D2Pruning:
    """Score: the AUM margin, the largest (easiest) first, as in the port; distances are squared Euclidean.

    Differs: the port searches product-quantised codes; neighbours here are exact up to 50,000 rows.
    """

    num_neighbours: int = 5
    gamma: float = 0.4
    """How far a pick silences its neighbours. Both numbers: COINCIDE's port to instruction data."""
    smallest_score: float = 1e-7
    """Margins are clipped from below, so that no neighbour takes away from a node."""
    seed: int = 0
    """Of the cells in which neighbours are searched when the pool is large."""

    def rank(self, pool: CandidatePool, rng: np.random.Generator) -> Ranking:
        """Needs "aum" (M,) and "mean_state" (M, D), both of the last checkpoint."""
        scores = np.maximum(pool.signal("aum").astype(np.float64), self.smallest_score)
        features = pool.features("mean_state")
        num_neighbours = min(self.num_neighbours, max(len(features) - 1, 0))
        neighbours, squared = nearest_neighbours(features, num_neighbours, seed=self.seed)
        messages = hear_neighbours(scores, neighbours, squared)
        return rank_images(pool, silencing_order(messages, neighbours, squared, self.gamma), rng)
