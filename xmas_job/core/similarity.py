"""Cosines and distances over features too large to hold: everything reads blocks of rows, memory-mapped or not.

No function here holds N x N or a second N x D.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from xmas_job.errors import BadDataError

# N examples, D features, K clusters, n members of one cluster

BLOCK = 2048
"""Rows read at once: at D = 20,480 a block is 168 MB."""


def read_rows(features_ND: NDArray[np.floating], rows: NDArray[np.integer] | slice) -> NDArray[np.float32]:
    """Some rows in float32.

    Raises:
        BadDataError: if a value is not finite.
    """
    block = np.ascontiguousarray(features_ND[rows], dtype=np.float32)
    if not np.isfinite(block).all():
        raise BadDataError(
            "features hold values that are not finite.", "Leave examples without features out of the pool."
        )
    return block


def unit_rows(block: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows divided by their Euclidean norm.

    Raises:
        BadDataError: if a row is zero, which has no direction.
    """
    norms = np.linalg.norm(block, axis=1, keepdims=True)
    if not (norms > 0).all():
        raise BadDataError("a feature row is zero and has no cosine to any other.", "Leave it out of the pool.")
    return np.asarray(block / norms, dtype=np.float32)


def blocks(rows: NDArray[np.integer], size: int = BLOCK) -> Iterator[NDArray[np.integer]]:
    """The row numbers in runs of at most `size`."""
    for start in range(0, rows.size, size):
        yield rows[start : start + size]


def members_of_clusters(cluster_ids_N: NDArray[np.integer], num_clusters: int) -> list[NDArray[np.int64]]:
    """Row numbers of each cluster, ascending."""
    order = np.argsort(cluster_ids_N, kind="stable")
    ends = np.cumsum(np.bincount(cluster_ids_N, minlength=num_clusters))
    return [np.asarray(members, dtype=np.int64) for members in np.split(order, ends[:-1])]


def cosine_to_centroid(
    features_ND: NDArray[np.floating], cluster_ids_N: NDArray[np.integer], centroids_KD: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Cosine of each row with its own centroid, shape (N,)."""
    cosines = np.empty(len(features_ND), dtype=np.float32)
    # By cluster, so that only one centroid is held beside a block.
    for number, members in enumerate(members_of_clusters(cluster_ids_N, len(centroids_KD))):
        if members.size:
            centroid = unit_rows(read_rows(centroids_KD, np.array([number])))[0]
            for part in blocks(members):
                cosines[part] = unit_rows(read_rows(features_ND, part)) @ centroid
    return cosines


def largest_cosine_to_earlier(
    features_ND: NDArray[np.floating], order_n: NDArray[np.integer], block: int = BLOCK
) -> NDArray[np.float32]:
    """For each row of `order_n` the largest cosine to a row before it; -1 for the first.

    Source: SemDeDup, section 3, M_j. At most two blocks and their tile are held.

    Returns:
        Shape (n,), beside `order_n`.
    """
    largest = np.full(order_n.size, -1.0, dtype=np.float32)
    for start in range(0, order_n.size, block):
        own = unit_rows(read_rows(features_ND, order_n[start : start + block]))
        best = largest[start : start + block]
        for earlier in range(0, start, block):
            other = unit_rows(read_rows(features_ND, order_n[earlier : earlier + block]))
            np.maximum(best, (own @ other.T).max(axis=1), out=best)
        tile = np.tril(own @ own.T, k=-1)
        tile[np.triu_indices(len(own))] = -1.0
        np.maximum(best, tile.max(axis=1), out=best)
    return largest


def transferability(directions_KD: NDArray[np.floating], too_alike: float, block: int = BLOCK) -> NDArray[np.float64]:
    """Mean cosine of each row with the rows that are not too alike; 0 where none is left.

    Source: COINCIDE's released code: entries above 0.9, its own among them, are left out of sum and count.

    Args:
        directions_KD: shape (K, D).
        too_alike: cosines above are left out.
        block: rows at once.

    Returns:
        Shape (K,).
    """
    everything = np.arange(len(directions_KD))
    means = np.zeros(len(directions_KD))
    for part in blocks(everything, block):
        own = unit_rows(read_rows(directions_KD, part))
        sums, counts = np.zeros(part.size), np.zeros(part.size)
        for other in blocks(everything, block):
            cosines = (own @ unit_rows(read_rows(directions_KD, other)).T).astype(np.float64)
            kept = (cosines <= too_alike) & (part[:, None] != other[None])
            sums += np.where(kept, cosines, 0.0).sum(axis=1)
            counts += kept.sum(axis=1)
        means[part] = np.divide(sums, counts, out=np.zeros(part.size), where=counts > 0)
    return means
