"""CLIP-Score: how well image and conversation agree (arXiv 2104.08718)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xmas_job.selection.contract import CandidatePool, Ranking
from xmas_job.selection.strata import rank_by_score


@dataclass(frozen=True)
class ClipScore:
    """cosine(image, whole conversation) of a dual encoder; the highest first.

    Source: Self-Filter's features: "USER: q ASSISTANT: a ...", cut at the encoder's length. Differs: its scoring loop
    keeps the last example's score only.
    """

    def rank(self, pool: CandidatePool, rng: np.random.Generator) -> Ranking:
        """The highest first. Needs the signal "clip_score", shape (M,)."""
        return rank_by_score(pool, -pool.signal("clip_score"), rng)
