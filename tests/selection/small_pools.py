"""Pools written out by hand: rows are named by their place, None marks a text-only one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xmas_job.selection.contract import CandidatePool, TextOnlyPolicy


def small_pool(
    signals: dict[str, Any],
    *,
    num_rows: int | None = None,
    text_rows: Sequence[int] = (),
    text_only: TextOnlyPolicy = "proportional",
    clusters: Sequence[int] | None = None,
    centroids: Any = None,
    sources: Sequence[str] | None = None,
) -> CandidatePool:
    """`signals` and `clusters` are of the rows with an image; `num_rows` counts all."""
    known = [len(values) for values in signals.values()] + ([len(clusters)] if clusters is not None else [])
    num_rows = num_rows or known[0] + len(text_rows)
    return CandidatePool(
        uids=np.array([f"{row:04d}" for row in range(num_rows)]),
        has_image=~np.isin(np.arange(num_rows), text_rows),
        signals={name: np.asarray(values, dtype=np.float32) for name, values in signals.items()},
        cluster_ids=None if clusters is None else np.array(clusters, dtype=np.int32),
        text_only=text_only,
        sources=None if sources is None else np.array(sources),
        centroids=None if centroids is None else np.asarray(centroids, dtype=np.float32),
    )


def order_of(method: Any, pool: CandidatePool, seed: int = 0) -> list[int]:
    return [int(row) for row in method.rank(pool, np.random.default_rng(seed)).order]


def chosen_by(method: Any, pool: CandidatePool, budget: int, seed: int = 0) -> list[int]:
    return [int(row) for row in method.select(pool, budget, np.random.default_rng(seed)).rows]
