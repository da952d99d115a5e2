"""Middle perplexity: the band around the median (arXiv 2309.04564), as COINCIDE's baselines cut it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xmas_job.selection.contract import CandidatePool, Ranking
from xmas_job.selection.strata import rank_images


@dataclass(frozen=True)
class MiddlePerplexity:
    """The examples of middling perplexity under the fine-tuned proxy.

    Source: COINCIDE's loader: of n sorted examples a budget of B takes B from n // 2 - B // 2 on. Such bands are
    nested: each next one grows by one example, by turns below and above.
    """

    def rank(self, pool: CandidatePool, rng: np.random.Generator) -> Ranking:
        """The middle first. Needs the signal "perplexity" of the last checkpoint, shape (M,)."""
        ascending = np.argsort(pool.signal("perplexity"), kind="stable")
        places = np.arange(ascending.size)
        # Budget 1 takes the place n // 2; then n // 2 - 1, n // 2 + 1, n // 2 - 2, ...
        offsets = np.where(places % 2 == 1, -(places // 2 + 1), places // 2)
        return rank_images(pool, ascending[ascending.size // 2 + offsets], rng)
