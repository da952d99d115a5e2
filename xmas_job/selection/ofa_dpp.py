"""OFA with a k-DPP: a diverse draw among each cluster's least confident examples (arXiv 2605.26761)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xmas_job.core.allocation import proportional_quotas
from xmas_job.core.determinantal import sample_k_dpp
from xmas_job.core.similarity import read_rows, unit_rows
from xmas_job.selection.contract import CandidatePool, Selection
from xmas_job.selection.ofa import least_confident
from xmas_job.selection.strata import select_images

JITTER = 1e-8


@dataclass(frozen=True)
class OfaDpp:
    """Candidates: the least confident of a cluster, some times its quota, in shuffled blocks; an exact k-DPP a block.

    L_ij = sqrt(q_i) (1 + cos(z_i, z_j)) / 2 sqrt(q_j), q = 1 - rank / candidates. Choice: the sampler works in
    logarithms, so one jitter serves where the release tries larger ones.
    """

    num_candidates_each: int = 2
    """Candidates for each place of the quota."""
    block: int = 128

    def select(self, pool: CandidatePool, budget: int, rng: np.random.Generator) -> Selection:
        """Needs "ofa_confidence" (M,), "clip" (M, D) and the clusters."""

        def choose(num_images: int) -> NDArray[np.int64]:
            features = pool.features("clip")
            chosen = [
                self._draw(features, rows[: self.num_candidates_each * quota], quota, rng)
                for rows, quota in least_confident(pool, num_images)
            ]
            return np.concatenate(chosen) if chosen else np.empty(0, dtype=np.int64)

        return select_images(pool, budget, rng, choose)

    def _draw(
        self, features: NDArray[np.floating], candidates: NDArray[np.int64], quota: int, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """`quota` of the candidates, which come least confident first."""
        places = rng.permutation(candidates.size)
        parts = np.array_split(places, max(1, -(-candidates.size // self.block)))
        quotas = proportional_quotas(np.array([part.size for part in parts]), quota)
        chosen = [part[:0] for part in parts]
        for i, (part, share) in enumerate(zip(parts, quotas, strict=True)):
            if 0 < share < part.size:
                root = np.sqrt(1 - part / candidates.size)
                z = unit_rows(read_rows(features, candidates[part])).astype(np.float64)
                kernel = root[:, None] * (1 + z @ z.T) / 2 * root + JITTER * np.eye(part.size)
                chosen[i] = part[sample_k_dpp(kernel, int(share), rng)]
            elif share:
                chosen[i] = part
        return candidates[np.concatenate(chosen)]
