"""EL2N: the norm of the error of the answer tokens (arXiv 2107.07075)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from xmas_job.selection.contract import CandidatePool, Ranking
from xmas_job.selection.strata import rank_by_score


@dataclass(frozen=True)
class El2n:
    """mean over answer tokens of |softmax - one-hot|, under the fine-tuned proxy."""

    keep: Literal["highest", "lowest"] = "highest"
    """Choice: highest, since XMAS speaks of large gradient norms; COINCIDE's loader ships the ascending order."""

    def rank(self, pool: CandidatePool, rng: np.random.Generator) -> Ranking:
        """One end of the score first. Needs the signal "el2n" of the last checkpoint, shape (M,)."""
        scores = pool.signal("el2n")
        return rank_by_score(pool, -scores if self.keep == "highest" else scores, rng)
