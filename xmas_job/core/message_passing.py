"""D2 pruning's graph: every node hears its neighbours once, then the best node silences its own, again and again."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from xmas_job.errors import BadDataError

# N nodes, k neighbours of each


def hear_neighbours(
    scores_N: NDArray[np.floating], neighbours_Nk: NDArray[np.int64], squared_Nk: NDArray[np.floating]
) -> NDArray[np.float64]:
    """g_i = s_i + sum over the neighbours j of exp(-d_ij) s_j, with d squared distances.

    Source: D2 pruning, equation 2. Choice: directed edges; no gamma here, as in the port to instruction data.
    """
    own = scores_N.astype(np.float64)
    return np.asarray(own + (np.exp(-squared_Nk.astype(np.float64)) * own[neighbours_Nk]).sum(axis=1))


def silencing_order(
    messages_N: NDArray[np.float64],
    neighbours_Nk: NDArray[np.int64],
    squared_Nk: NDArray[np.floating],
    gamma: float,
) -> NDArray[np.int64]:
    """All nodes: repeatedly the largest g_i; then g_j -= g_i exp(-gamma d_ij) for its neighbours j.

    Source: D2 pruning, equation 3. Differs: the release's lazy queue is approximate; here stale entries of a heap
    are skipped, so every pick is the largest. Ties go by row.

    Raises:
        BadDataError: if a message is not finite.
    """
    if not np.isfinite(messages_N).all():
        raise BadDataError("a score is not finite.", "Leave examples without a score out of the pool.")
    current: list[float] = messages_N.tolist()
    weights = np.exp(-gamma * squared_Nk.astype(np.float64))
    is_left = [True] * len(current)
    heap = [(-value, row) for row, value in enumerate(current)]
    heapq.heapify(heap)
    order = np.empty(len(current), dtype=np.int64)
    for place in range(len(current)):
        negated, row = heapq.heappop(heap)
        while not is_left[row] or -negated != current[row]:
            negated, row = heapq.heappop(heap)
        order[place] = row
        is_left[row] = False
        for neighbour, weight in zip(neighbours_Nk[row].tolist(), weights[row].tolist(), strict=True):
            if is_left[neighbour]:
                current[neighbour] += negated * weight
                heapq.heappush(heap, (-current[neighbour], neighbour))
    return order
