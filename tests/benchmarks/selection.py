"""What selecting costs: seconds and peak memory by method and number of examples.

    python -m tests.benchmarks.selection --json
    python -m tests.benchmarks.selection --methods coincide semdedup --sizes 100000 --width 1024

Signals are drawn at random; features lie in a memory-mapped float16 file, as the stages leave them. Every method runs
in a process of its own, so that the peak is its own. Columns: `seconds` of the method alone, `peak_gb` of the process
beyond what it held before the method began, `features_gb` of the mapped file.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tests.benchmarks.memory import PeakMemory
from xmas_job.catalog.methods import METHODS, MethodEntry
from xmas_job.catalog.signals import SIGNALS
from xmas_job.entrypoints import load_entrypoint
from xmas_job.selection.contract import CandidatePool

SIZES = (10_000, 100_000, 1_000_000)
ROWS_A_CLUSTER = 100
NUM_CHECKPOINTS = 7


def features(folder: Path, num_rows: int, width: int, clusters: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Unit rows around random directions, one a cluster; written in blocks, read as a map."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(int(clusters.max()) + 1, width)).astype(np.float32)
    path = folder / "features.npy"
    mapped = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(num_rows, width))
    for start in range(0, num_rows, 8192):
        block = centres[clusters[start : start + 8192]]
        block = block + rng.normal(size=block.shape).astype(np.float32)
        mapped[start : start + 8192] = block / np.linalg.norm(block, axis=1, keepdims=True)
    mapped.flush()
    del mapped
    return np.load(path, mmap_mode="r")


def pool_of(entry: MethodEntry, num_rows: int, width: int, folder: Path) -> CandidatePool:
    """All with an image; as many clusters as the paper has, or one for a hundred rows if that is fewer."""
    rng = np.random.default_rng(1)
    num_clusters = max(1, num_rows // ROWS_A_CLUSTER)
    if entry.clustering:
        num_clusters = min(num_clusters, entry.clustering.num_clusters)
    clusters = rng.integers(0, num_clusters, num_rows).astype(np.int32)
    needs = {need.signal: need.checkpoints for need in entry.signals}
    signals = {}
    for name, checkpoints in needs.items():
        shape = {"all": (num_rows, NUM_CHECKPOINTS), "first and last": (num_rows, 2)}.get(checkpoints, (num_rows,))
        vector = SIGNALS[name].is_vector
        signals[name] = features(folder, num_rows, width, clusters) if vector else rng.random(shape, dtype=np.float32)
    return CandidatePool(
        uids=np.char.mod("%032x", np.arange(num_rows)),
        has_image=np.ones(num_rows, dtype=bool),
        signals=signals,
        cluster_ids=clusters if entry.clustering else None,
        text_only="proportional",
        sources=rng.choice(["coco", "gqa", "vg"], num_rows),
        centroids=rng.normal(size=(num_clusters, width)).astype(np.float32) if entry.clustering else None,
    )


def measure(name: str, num_rows: int, width: int) -> dict[str, Any]:
    """One method on one pool, at a budget of 15 % where it matters."""
    entry = METHODS[name]
    with tempfile.TemporaryDirectory() as folder:
        pool = pool_of(entry, num_rows, width, Path(folder))
        method = load_entrypoint(entry.entrypoint)()
        with PeakMemory() as peak:
            begin = time.perf_counter()
            rng = np.random.default_rng(0)
            method.rank(pool, rng) if entry.nested else method.select(pool, num_rows * 15 // 100, rng)
            seconds = time.perf_counter() - begin
        has_features = any(SIGNALS[need.signal].is_vector for need in entry.signals)
        return {
            "method": name,
            "num_examples": num_rows,
            "width": width if has_features else None,
            "seconds": round(seconds, 2),
            "peak_gb": round(peak.extra_bytes / 1e9, 3),
            "features_gb": round(2 * num_rows * width / 1e9, 3) if has_features else 0.0,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--methods", nargs="*", default=sorted(METHODS), choices=sorted(METHODS))
    parser.add_argument("--sizes", nargs="*", type=int, default=list(SIZES))
    parser.add_argument("--width", type=int, default=256, help="Dimension of features.")
    parser.add_argument("--json", action="store_true", help="One JSON object a line.")
    options = parser.parse_args()
    machine = {"cores": psutil.cpu_count(), "memory_gb": round(psutil.virtual_memory().total / 1e9)}
    print(json.dumps(machine) if options.json else machine, flush=True)
    for name in options.methods:
        for num_rows in options.sizes:
            with multiprocessing.get_context("spawn").Pool(1) as process:
                row = process.apply(measure, (name, num_rows, options.width))
            print(json.dumps(row) if options.json else "  ".join(f"{k}={v}" for k, v in row.items()), flush=True)


if __name__ == "__main__":
    main()
