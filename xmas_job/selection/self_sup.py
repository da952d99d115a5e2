"""Self-supervised prototypes: the examples closest to their own centroid (arXiv 2206.14486), as XMAS keeps them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xmas_job.core.similarity import cosine_to_centroid
from xmas_job.selection.contract import CandidatePool, Ranking
from xmas_job.selection.strata import rank_by_score


@dataclass(frozen=True)
class SelfSup:
    """Cosine to the own centroid in the space of a dual encoder; the closest first, over all clusters.

    Choice: unit vectors and spherical k-means, as SemDeDup's; the sources are silent. Differs: the paper keeps the
    hard end when data abound; XMAS's baseline keeps the closest.
    """

    def rank(self, pool: CandidatePool, rng: np.random.Generator) -> Ranking:
        """The closest first. Needs the signal "clip" (M, D), and its clusters with centroids."""
        cluster_ids, centroids = pool.clustering()
        return rank_by_score(pool, -cosine_to_centroid(pool.features("clip"), cluster_ids, centroids), rng)
