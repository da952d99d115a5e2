"""SemDeDup: the fewest near-duplicates (arXiv 2303.09540)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from xmas_job.core.similarity import cosine_to_centroid, largest_cosine_to_earlier, members_of_clusters
from xmas_job.selection.contract import CandidatePool, Ranking
from xmas_job.selection.strata import rank_by_score


@dataclass(frozen=True)
class SemDeDup:
    """In each cluster, from far to near its centroid, M_j = the largest cosine to an earlier member; small M_j first.

    Choice: all examples are ranked by M_j and cut exactly at the budget, the first of a cluster having -1. Differs: the
    release tunes a threshold a budget and takes what is above it.
    """

    keep: Literal["hard", "easy"] = "hard"
    """Which of a pair of duplicates stays: the one farther from the centroid, as released, or the nearer."""

    def rank(self, pool: CandidatePool, rng: np.random.Generator) -> Ranking:
        """The least duplicated first. Needs "last_state" (M, D) of the last checkpoint, its clusters and centroids."""
        cluster_ids, centroids = pool.clustering()
        features = pool.features("last_state")
        nearness = cosine_to_centroid(features, cluster_ids, centroids)
        if self.keep == "easy":
            nearness = -nearness
        scores = np.empty(len(features), dtype=np.float32)
        for members in members_of_clusters(cluster_ids, len(centroids)):
            order = members[np.argsort(nearness[members], kind="stable")]
            scores[order] = largest_cosine_to_earlier(features, order)
        return rank_by_score(pool, scores, rng)
