"""XMAS: a balanced set of the most stable examples of each trajectory cluster (arXiv 2510.01454)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from xmas_job.core.ranking import rank_within_groups, water_filling_order, weave_proportionally
from xmas_job.core.trajectory import InstabilityKind, instability
from xmas_job.errors import UsageError
from xmas_job.selection.contract import CandidatePool, Ranking

SMALL_CLUSTER = 2
"""The release drops clusters with this many members or fewer."""


@dataclass(frozen=True)
class Xmas:
    """Balance over clusters of alignment trajectories; inside a cluster the smallest instability first.

    Differs: the release draws per budget; this ranking is nested, and a prefix equals its water-filling.
    """

    within_cluster: Literal["stable", "random"] = "stable"
    """`random`: the paper's ablation (Table 2a). One checkpoint has no instability and is random either way."""
    instability: InstabilityKind = "sum_abs"
    """The paper's measure, or those of its ablation; see `core.trajectory.instability`."""
    small_clusters: Literal["keep", "refill", "drop"] = "keep"
    """Clusters of one or two members. Choice: keep (the paper names no exception). `refill` puts them after all
    others, as S2L does; `drop` leaves them out, as the release does."""

    def rank(self, pool: CandidatePool, rng: np.random.Generator) -> Ranking:
        """Water-filling over the clusters; the text-only stratum by the pool's policy.

        Needs the clusters (M,) of the rows with an image, and their trajectories of the signal "alignment": (M, T), or
        (M, T, D) where its values are not summed.
        """
        if pool.cluster_ids is None:
            raise UsageError("XMAS needs the clusters of its trajectories.", "Run the cluster stage.")
        trajectories = pool.signal("alignment")
        has_steps = trajectories.shape[1] > 1
        unstable = instability(trajectories.astype(np.float32), self.instability) if has_steps else np.nan
        image_rows = np.flatnonzero(pool.has_image)
        text_rows = np.flatnonzero(~pool.has_image)
        # Drawn always, so that the policy for text-only examples does not change the order of the others.
        shuffle = rng.permutation(pool.uids.size).astype(np.float64)

        clusters = np.full(pool.uids.size, -1, dtype=np.int32)
        clusters[image_rows] = pool.cluster_ids
        within = np.full(pool.uids.size, np.nan)
        within[image_rows] = unstable
        key = shuffle.copy()
        if has_steps and self.within_cluster == "stable":
            key[image_rows] = unstable

        if pool.text_only == "cluster":
            clusters[text_rows] = pool.cluster_ids.max(initial=-1) + 1
            order = self._balanced(np.arange(pool.uids.size), clusters, key)
        else:
            order = self._balanced(image_rows, clusters, key)
            if pool.text_only == "proportional":
                order = weave_proportionally(order, text_rows[np.argsort(shuffle[text_rows], kind="stable")])
        return Ranking(order, clusters[order], within[order])

    def _balanced(
        self, rows: NDArray[np.int64], clusters: NDArray[np.int32], key: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """The rows in water-filling order, small clusters by policy."""
        groups = clusters[rows]
        places = rank_within_groups(groups, (key[rows], rows))
        order = water_filling_order(groups, places)
        if self.small_clusters != "keep":
            _, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
            is_small = (sizes <= SMALL_CLUSTER)[inverse][order]
            rest = order[is_small] if self.small_clusters == "refill" else order[:0]
            order = np.concatenate([order[~is_small], rest])
        return rows[order]
