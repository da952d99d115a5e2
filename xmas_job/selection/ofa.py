"""OFA: the examples that a once-trained selector is least sure of, cluster by cluster (arXiv 2605.26761)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xmas_job.core.allocation import proportional_quotas
from xmas_job.errors import UsageError
from xmas_job.selection.contract import CandidatePool, Selection
from xmas_job.selection.strata import select_images


@dataclass(frozen=True)
class Ofa:
    """Quotas proportional to cluster size; inside a cluster the lowest confidence first.

    Clusters are the selector's own: the nearest of its centroids. Choice: no noise gate (the release's option).
    """

    def select(self, pool: CandidatePool, budget: int, rng: np.random.Generator) -> Selection:
        """Needs "ofa_confidence" (M,) and the clusters."""

        def choose(num_images: int) -> NDArray[np.int64]:
            chosen = [rows[:quota] for rows, quota in least_confident(pool, num_images)]
            return np.concatenate(chosen) if chosen else np.empty(0, dtype=np.int64)

        return select_images(pool, budget, rng, choose)


def least_confident(pool: CandidatePool, num_images: int) -> list[tuple[NDArray[np.int64], int]]:
    """Members of each cluster that is not empty, lowest confidence first, ties by uid; and its quota."""
    if pool.cluster_ids is None:
        raise UsageError("OFA needs the clusters of its selector.", "Score the pool with a trained selector.")
    confidence = pool.signal("ofa_confidence")
    order = np.lexsort((confidence, pool.cluster_ids))
    starts = np.flatnonzero(np.diff(pool.cluster_ids[order], prepend=-1))
    members = [np.asarray(rows, dtype=np.int64) for rows in np.split(order, starts[1:])] if order.size else []
    # In the order of their first row: a cluster's number decides nothing.
    members.sort(key=lambda rows: int(rows.min()))
    quotas = proportional_quotas(np.array([rows.size for rows in members], dtype=np.int64), num_images)
    return [(rows, int(quota)) for rows, quota in zip(members, quotas, strict=True)]
