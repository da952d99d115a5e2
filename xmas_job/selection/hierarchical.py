"""Hierarchical: a balanced draw over coarse groups of fine cells. A candidate of our own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage

from xmas_job.core.ranking import rank_within_groups, water_filling_order
from xmas_job.selection.contract import CandidatePool, Ranking
from xmas_job.selection.strata import rank_images


@dataclass(frozen=True)
class Hierarchical:
    """Equal quotas over coarse groups, inside a group over its fine cells, drawn at random inside a cell.

    The fine cells are the pool's k-means clusters; average linkage (Euclidean) of their centroids makes the groups.
    """

    num_groups: int = 40

    def rank(self, pool: CandidatePool, rng: np.random.Generator) -> Ranking:
        """Needs the clusters of "clip" with their centroids. Text-only rows are woven in by their share."""
        cells, centroids = pool.clustering()
        held = np.unique(cells)
        groups_of_cells = np.zeros(len(centroids), dtype=np.int64)
        if held.size > 1:
            tree = linkage(centroids[held].astype(np.float64), method="average")
            groups_of_cells[held] = fcluster(tree, self.num_groups, criterion="maxclust")
        groups = groups_of_cells[cells]
        rounds = water_filling_order(cells, rank_within_groups(cells, (rng.permutation(cells.size),)))
        place = np.empty(cells.size, dtype=np.int64)
        place[rounds] = np.arange(cells.size)
        return rank_images(pool, water_filling_order(groups, rank_within_groups(groups, (place,))), rng)
