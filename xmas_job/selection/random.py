"""Random: the baseline everybody doubts against. Uniform without replacement over the whole pool."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xmas_job.selection.contract import CandidatePool, Ranking


@dataclass(frozen=True)
class Random:
    """A seeded permutation. Text-only examples come in as they fall, unless the policy excludes them."""

    def rank(self, pool: CandidatePool, rng: np.random.Generator) -> Ranking:
        """Shuffle the eligible rows."""
        rows = np.flatnonzero(pool.has_image) if pool.text_only == "exclude" else np.arange(pool.uids.size)
        order = rng.permutation(rows).astype(np.int64)
        return Ranking(order, np.full(order.size, -1, dtype=np.int32), np.full(order.size, np.nan))
