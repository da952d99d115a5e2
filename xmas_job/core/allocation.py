"""How many a cluster gives to a budget: proportional quotas, and COINCIDE's allocation. Whole numbers, exact sums."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# K clusters, B budget


def proportional_quotas(sizes_K: NDArray[np.integer], budget: int) -> NDArray[np.int64]:
    """Quotas proportional to size: floors, at least one for a cluster that is not empty, then largest remainders.

    A remainder is what a quota lacks of its share, so a cluster that was lifted to one is the last to get a second.
    Source: OFA's selection scripts. Choice: if the ones overshoot, they are taken back from quotas above one, the
    smallest remainder first; with fewer places than clusters the largest clusters get one each; equal remainders go
    by size, then by number.

    Args:
        sizes_K: shape (K,).
        budget: B, at most the sum of the sizes.

    Returns:
        Shape (K,), summing to B, at most the size each.
    """
    sizes = sizes_K.astype(np.int64)
    total = int(sizes.sum())
    assert 0 <= budget <= total, "a budget above the pool is refused before"
    quotas = np.zeros(sizes.size, dtype=np.int64)
    if budget < np.count_nonzero(sizes):
        quotas[np.argsort(-sizes, kind="stable")[:budget]] = 1
        return quotas
    shares = budget * sizes  # in units of 1 / total: whole numbers, so equal remainders are equal
    quotas[:] = np.maximum(shares // max(total, 1), sizes > 0)
    remainders = shares - quotas * total
    missing = budget - int(quotas.sum())
    if missing > 0:
        has_room = np.flatnonzero(quotas < sizes)
        order = has_room[np.lexsort((-sizes[has_room], -remainders[has_room]))]
        quotas[order[:missing]] += 1
    while missing < 0:
        may_give = np.flatnonzero(quotas > 1)
        order = may_give[np.lexsort((sizes[may_give], remainders[may_give]))][:-missing]
        quotas[order] -= 1
        missing += order.size
    return quotas


def softmax_quotas(
    scores_K: NDArray[np.float64], sizes_K: NDArray[np.integer], budget: int, temperature: float
) -> NDArray[np.int64]:
    """COINCIDE's allocation: P ∝ exp(score / temperature), clusters visited by falling P.

    Each takes round(remaining * P) with P normalised anew over the clusters not yet visited, at most its size.
    Source: COINCIDE's released sampling. Choice: what is missing at the end goes one by one to the cluster of the
    highest P that has room; equal scores go by number. Halves are rounded to even, as Python does.

    Args:
        scores_K: shape (K,), finite where the size is above 0.
        sizes_K: shape (K,).
        budget: B, at most the sum of the sizes.
        temperature: above 0.

    Returns:
        Shape (K,), summing to B.
    """
    quotas = np.zeros(sizes_K.size, dtype=np.int64)
    held = np.flatnonzero(sizes_K > 0)
    order = held[np.argsort(-scores_K[held], kind="stable")]
    logits = scores_K[order] / temperature
    # P of the first of the clusters left is 1 / sum of exp(other - own): never 0 / 0, however far apart the scores are,
    # and exactly 1 / n among n equal ones, so that halves are halves.
    inverse_P = [1.0] if order.size else []
    for step in np.exp(np.diff(logits))[::-1].tolist():
        inverse_P.append(1.0 + step * inverse_P[-1])
    remaining = budget
    for number, inverse in zip(order, reversed(inverse_P), strict=True):
        quotas[number] = min(round(remaining / inverse), int(sizes_K[number]))
        remaining -= int(quotas[number])
    for number in order:
        extra = min(remaining, int(sizes_K[number] - quotas[number]))
        quotas[number] += extra
        remaining -= extra
    return quotas
