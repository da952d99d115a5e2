"""COINCIDE: more from clusters that are dense in concepts and transfer well (arXiv 2406.10995)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xmas_job.core.allocation import softmax_quotas
from xmas_job.core.kernel import GaussianKernel, greedy_mmd
from xmas_job.core.similarity import members_of_clusters, transferability
from xmas_job.selection.contract import CandidatePool, Selection
from xmas_job.selection.strata import select_images


@dataclass(frozen=True)
class Coincide:
    """P(cluster) ∝ exp(transferability / density / temperature); inside a cluster the subset nearest to its whole.

    Features: unit vectors, all image halves first, then all text halves; transferability compares centroids by the
    latter. Defaults are the release's, with its script's sigma.
    """

    temperature: float = 0.1
    sigma: float = 1.0
    too_alike: float = 0.9
    """Cosines of centroids above are left out of the transferability."""

    def select(self, pool: CandidatePool, budget: int, rng: np.random.Generator) -> Selection:
        """Needs "coincide" (M, 2 L D) of the last checkpoint, its clusters and centroids."""
        return select_images(pool, budget, rng, lambda num_images: self._choose(pool, num_images))

    def _choose(self, pool: CandidatePool, num_images: int) -> NDArray[np.int64]:
        cluster_ids, centroids = pool.clustering()
        features = pool.features("coincide")
        everybody = members_of_clusters(cluster_ids, len(centroids))
        # In the order of their first row: a cluster's number decides nothing.
        members = sorted((rows for rows in everybody if rows.size), key=lambda rows: int(rows[0]))
        numbers = cluster_ids[[rows[0] for rows in members]] if members else np.empty(0, dtype=np.int64)
        text_half = centroids[:, centroids.shape[1] // 2 :][numbers]
        means = [self._kernel(features, rows).row_means() for rows in members]
        density = np.array([float(mean.mean()) for mean in means])
        sizes = np.array([rows.size for rows in members], dtype=np.int64)
        transfer = transferability(text_half, self.too_alike) if members else np.empty(0)
        quotas = softmax_quotas(transfer / density, sizes, num_images, self.temperature)
        chosen = [
            rows[greedy_mmd(self._kernel(features, rows), mean, int(quota))]
            for rows, mean, quota in zip(members, means, quotas, strict=True)
            if quota
        ]
        return np.concatenate(chosen) if chosen else np.empty(0, dtype=np.int64)

    def _kernel(self, features: NDArray[np.floating], rows: NDArray[np.int64]) -> GaussianKernel:
        return GaussianKernel(features, rows, self.sigma)
