"""Orders whose every prefix is balanced: water-filling over groups, and strata woven in by their share.

Owns the arithmetic of a nested ranking. Knows no method and no example beyond its number.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# N examples, n ranked so far


def rank_within_groups(groups: NDArray[np.integer], order_keys: tuple[NDArray[np.generic], ...]) -> NDArray[np.int64]:
    """Place of each row inside its group, from 0, ordered by `order_keys`.

    Args:
        groups: shape (N,).
        order_keys: arrays of shape (N,), the most significant first.

    Returns:
        Shape (N,).
    """
    order = np.lexsort((*reversed(order_keys), groups))
    sorted_groups = groups[order]
    starts = np.flatnonzero(np.r_[True, sorted_groups[1:] != sorted_groups[:-1]]) if groups.size else np.empty(0, int)
    place = np.arange(groups.size) - np.repeat(starts, np.diff(np.r_[starts, groups.size]))
    ranks = np.empty(groups.size, dtype=np.int64)
    ranks[order] = place
    return ranks


def water_filling_order(groups: NDArray[np.integer], ranks_in_group: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows in an order of which every prefix is the water-filling of that size over the groups.

    Round r takes the r-th member of every group that has one; within a round the largest group comes first, equal
    sizes by the smallest row number in the group. A prefix of length B then holds min(size, level) members of every
    group, and of the groups that could give one more, the largest.

    Source: XMAS's released balanced sampling, made nested. Choice: the order within a round.

    Args:
        groups: shape (N,). Row numbers stand for uids: callers sort by uid.
        ranks_in_group: shape (N,), from `rank_within_groups`.

    Returns:
        Row numbers, shape (N,).
    """
    _, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    first_rows = np.full(sizes.size, groups.size, dtype=np.int64)
    np.minimum.at(first_rows, inverse, np.arange(groups.size))
    return np.lexsort((first_rows[inverse], -sizes[inverse], ranks_in_group)).astype(np.int64)


def weave_proportionally(main: NDArray[np.int64], stratum: NDArray[np.int64]) -> NDArray[np.int64]:
    """Both orders in one, so that every prefix of length n holds floor(n * share) rows of the stratum.

    Args:
        main: row numbers in order, shape (M,).
        stratum: other row numbers in order, shape (S,); its share is S / (M + S).

    Returns:
        Shape (M + S,).
    """
    total = main.size + stratum.size
    lengths = np.arange(total + 1, dtype=np.int64)
    held = lengths * stratum.size // max(total, 1)
    is_stratum = np.diff(held).astype(bool)
    woven = np.empty(total, dtype=np.int64)
    woven[is_stratum] = stratum
    woven[~is_stratum] = main
    return woven
