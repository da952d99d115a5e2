"""Highest learnability: the largest fall of the loss over the proxy's training (LoBaSS, arXiv 2310.13008)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xmas_job.selection.contract import CandidatePool, Ranking
from xmas_job.selection.strata import rank_by_score


@dataclass(frozen=True)
class HighestLearnability:
    """loss(checkpoint 0) - loss(last), relative to the former; the highest first."""

    normalise: bool = True
    """Divide by the loss before training. Choice: on; XMAS names the method but not its formula."""

    smallest_loss: float = 1e-6
    """The denominator is never below, in nats."""

    def rank(self, pool: CandidatePool, rng: np.random.Generator) -> Ranking:
        """The highest first. Needs the signal "loss" before and after training, shape (M, 2)."""
        before, after = pool.signal("loss").astype(np.float64).T
        fall = before - after
        if self.normalise:
            fall = fall / np.maximum(before, self.smallest_loss)
        return rank_by_score(pool, -fall, rng)
