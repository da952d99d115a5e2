"""Pools for any method of the catalogue: every signal and clustering that its entry asks for, drawn at random."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmas_job.catalog.methods import MethodEntry
from xmas_job.catalog.signals import SIGNALS
from xmas_job.core.budget import resolve_budget
from xmas_job.entrypoints import load_entrypoint
from xmas_job.selection.contract import CandidatePool, TextOnlyPolicy

NUM_CHECKPOINTS = 4
WIDTH = 6


def columns_for(
    entry: MethodEntry,
    num_examples: int,
    *,
    text_only: TextOnlyPolicy = "proportional",
    share_text: float = 0.25,
    num_clusters: int = 7,
    constant: bool = False,
    width: int = WIDTH,
) -> dict[str, Any]:
    """Arguments of a pool, sorted by uid; cluster sizes are very unequal."""
    rng = np.random.default_rng(5)
    uids = np.char.mod("%032x", np.sort(rng.choice(2**40, num_examples, replace=False)))
    has_image = rng.random(num_examples) >= share_text
    num_images = int(has_image.sum())
    shapes = {need.signal: need.checkpoints for need in entry.signals}
    if entry.clustering:
        shapes.setdefault(entry.clustering.signal, entry.clustering.checkpoints)
    columns: dict[str, Any] = {
        "uids": uids,
        "has_image": has_image,
        "signals": {name: _values(rng, name, shape, num_images, width) for name, shape in shapes.items()},
        "cluster_ids": None,
        "text_only": text_only,
        "sources": rng.choice(["coco", "gqa", "vg"], num_examples, p=[0.7, 0.2, 0.1]),
    }
    if constant:
        columns["signals"] = {name: np.ones_like(values) for name, values in columns["signals"].items()}
    if entry.clustering:
        columns["cluster_ids"] = np.minimum(rng.geometric(0.4, num_images) - 1, num_clusters - 1).astype(np.int32)
        # One more than is held: clusters may be empty.
        dimension = columns["signals"][entry.clustering.signal].reshape(num_images, -1).shape[1] if num_images else 2
        columns["centroids"] = rng.normal(size=(num_clusters + 1, dimension)).astype(np.float32)
    return columns


def _values(rng: np.random.Generator, name: str, checkpoints: str, num_images: int, width: int) -> NDArray[np.float32]:
    if SIGNALS[name].is_vector:
        return rng.normal(size=(num_images, width)).astype(np.float32)
    steps = {"all": (NUM_CHECKPOINTS,), "first and last": (2,)}.get(checkpoints, ())
    return rng.uniform(0.05, 1, (num_images, *steps)).astype(np.float32)


def pool_for(entry: MethodEntry, num_examples: int, **how: Any) -> CandidatePool:
    return CandidatePool(**columns_for(entry, num_examples, **how))


def rows_of_method(entry: MethodEntry, pool: CandidatePool, budget: int, seed: int = 0) -> list[int]:
    """What the method selects at a budget, in its order."""
    method, rng = load_entrypoint(entry.entrypoint)(), np.random.default_rng(seed)
    if entry.nested:
        return [int(row) for row in method.rank(pool, rng).order[:budget]]
    return [int(row) for row in method.select(pool, budget, rng).rows]


def num_eligible(pool: CandidatePool) -> int:
    return int(pool.has_image.sum()) if pool.text_only == "exclude" else pool.uids.size


def budgets_of(pool: CandidatePool) -> list[int]:
    """One, some, and all of the eligible rows."""
    total = num_eligible(pool)
    return sorted({min(1, total), *(resolve_budget(share, total) for share in ("15%", "60%") if total), total})
