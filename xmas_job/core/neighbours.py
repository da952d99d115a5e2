"""Nearest neighbours by squared Euclidean distance (faiss), exact below a size and by cells above it.

Holds one cell and its candidates, never N x N nor a second N x D.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xmas_job.core.kmeans import cluster, count_distinct
from xmas_job.core.similarity import blocks, members_of_clusters, read_rows

# N examples, D features, k neighbours, C cells

EXACT_BELOW = 50_000
CELL = 1000
"""Rows a cell, about."""
NUM_PROBES = 8
"""Cells searched around a row's own."""


def nearest_neighbours(
    features_ND: NDArray[np.floating], k: int, *, seed: int, exact_below: int = EXACT_BELOW
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k nearest other rows of each row, nearest first, equal distances by row.

    Choice: up to `exact_below` rows all pairs are compared; above, k-means cells of about 1000 rows are made and a
    row is compared with the rows of the 8 cells nearest to its own. Differs: D2's port searches product-quantised
    codes, whose distances are off even for the neighbours found.

    Args:
        features_ND: shape (N, D), may be memory-mapped.
        k: below N.
        seed: of the cells.
        exact_below: where cells begin.

    Returns:
        Rows and squared distances, shape (N, k) each.
    """
    num_rows = len(features_ND)
    assert 0 <= k < max(num_rows, 1), "a row has only the others as neighbours"
    if num_rows <= exact_below:
        everything = np.arange(num_rows)
        groups = [(everything, everything)]
    else:
        groups = _cells(features_ND, k, seed)
    found, squared = np.empty((num_rows, k), dtype=np.int64), np.empty((num_rows, k), dtype=np.float32)
    for members, candidates in groups:
        base = read_rows(features_ND, candidates)
        for part in blocks(members):
            found[part], squared[part] = _search(read_rows(features_ND, part), part, base, candidates, k)
    return found, squared


def _search(
    queries: NDArray[np.float32],
    own: NDArray[np.integer],
    base: NDArray[np.float32],
    candidates: NDArray[np.integer],
    k: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k nearest candidates of each query, itself left out."""
    import faiss

    # Around a row of the block: faiss takes |x|² - 2xy + |y|² in float32, which is wrong far from the origin.
    origin = base.mean(axis=0, dtype=np.float64).astype(np.float32)
    squared, places = faiss.knn(queries - origin, base - origin, k + 1)
    rows = candidates[places].astype(np.int64)
    # Itself last; among many equal rows it may not be in the list, and then the farthest goes.
    squared = np.where(rows == own[:, None], np.inf, np.maximum(squared, 0.0))
    order = np.asarray(np.lexsort((rows, squared), axis=1)[:, :k], dtype=np.int64)
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(squared, order, axis=1)


def _cells(features_ND: NDArray[np.floating], k: int, seed: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Members of each cell, and the rows of the nearest cells, in which at least k + 1 lie."""
    num_cells = count_distinct(features_ND, limit=max(1, len(features_ND) // CELL))
    cells = cluster(features_ND, num_clusters=num_cells, num_iterations=10, max_points_per_centroid=64, seed=seed)
    members = members_of_clusters(cells.assignments, len(cells.centroids))
    groups = []
    for number, own in enumerate(members):
        if own.size:
            nearest = np.argsort(((cells.centroids - cells.centroids[number]) ** 2).sum(axis=1), kind="stable")
            held = np.cumsum(cells.sizes[nearest])
            num_probes = max(NUM_PROBES, int(np.searchsorted(held, k + 1)) + 1)
            groups.append((own, np.sort(np.concatenate([members[cell] for cell in nearest[:num_probes]]))))
    return groups
