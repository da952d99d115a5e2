"""Full: the whole pool, as the reference for relative performance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xmas_job.selection.contract import CandidatePool, Ranking


@dataclass(frozen=True)
class Full:
    """Every eligible example, in uid order."""

    def rank(self, pool: CandidatePool, rng: np.random.Generator) -> Ranking:  # noqa: ARG002 (the contract's)
        """The eligible rows as they stand."""
        order = np.flatnonzero(pool.has_image) if pool.text_only == "exclude" else np.arange(pool.uids.size)
        return Ranking(order.astype(np.int64), np.full(order.size, -1, dtype=np.int32), np.full(order.size, np.nan))
