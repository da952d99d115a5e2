"""S2L: a balanced draw over clusters of loss trajectories (arXiv 2403.07384)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xmas_job.core.ranking import rank_within_groups, water_filling_order
from xmas_job.errors import UsageError
from xmas_job.selection.contract import CandidatePool, Ranking
from xmas_job.selection.strata import rank_images


@dataclass(frozen=True)
class S2L:
    """Quotas over data sources, inside a source over clusters, drawn at random inside a cluster.

    Differs: the release draws per budget; this ranking is nested, and a prefix equals its water-filling. Clusters of
    a source with few members come after its others, as in the release.
    """

    balance_sources: bool = True
    """Off: over clusters only, as XMAS's own script does with losses."""
    small_cluster: int = 2
    """Clusters with this many members or fewer in a source wait until its others are exhausted."""

    def rank(self, pool: CandidatePool, rng: np.random.Generator) -> Ranking:
        """Needs the clusters of "loss" trajectories and, to balance over them, the sources of the rows.

        Under the policy "cluster" the text-only rows are one more cluster of their source.
        """
        if pool.cluster_ids is None or (self.balance_sources and pool.sources is None):
            raise UsageError("S2L needs clusters and sources.", "Set balance_sources to false if rows have no source.")
        shuffle = rng.permutation(pool.uids.size)
        clusters = np.full(pool.uids.size, pool.cluster_ids.max(initial=-1) + 1, dtype=np.int32)
        clusters[pool.has_image] = pool.cluster_ids
        whole = pool.text_only == "cluster"
        rows = np.arange(pool.uids.size) if whole else np.flatnonzero(pool.has_image)
        order = rows[self._balanced(clusters[rows], self._sources(pool)[rows], shuffle[rows])]
        if not whole:
            return rank_images(pool, np.cumsum(pool.has_image)[order] - 1, rng)
        return Ranking(order, clusters[order], np.full(order.size, np.nan))

    def _sources(self, pool: CandidatePool) -> NDArray[np.int64]:
        if not self.balance_sources or pool.sources is None:
            return np.zeros(pool.uids.size, dtype=np.int64)
        return np.unique(pool.sources, return_inverse=True)[1].astype(np.int64)

    def _balanced(
        self, clusters: NDArray[np.int32], sources: NDArray[np.int64], shuffle: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Water-filling over sources of each source's own water-filling over clusters."""
        named = sources * (clusters.max(initial=-1) + 1) + clusters
        _, cells, counts = np.unique(named, return_inverse=True, return_counts=True)
        rounds = water_filling_order(cells, rank_within_groups(cells, (shuffle,)))
        place = np.empty(rounds.size, dtype=np.int64)
        place[rounds] = np.arange(rounds.size)
        waits = counts[cells] <= self.small_cluster
        return water_filling_order(sources, rank_within_groups(sources, (waits, place)))
