"""What a selection method is: a frozen dataclass of hyper-parameters and a pure function of arrays.

Owns the contract. No file, device, logger or global seed: randomness comes in as a Generator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

TextOnlyPolicy = Literal["cluster", "proportional", "exclude"]


@dataclass(frozen=True)
class CandidatePool:
    """The examples a method may choose from, sorted by uid; row numbers stand for uids.

    N is the number of examples. Rows outside `has_image` are the text-only stratum. Rows of images without a signal
    (absent with a reason) are not in the pool that a method sees.
    """

    uids: NDArray[np.str_]
    """Shape (N,), sorted, distinct."""
    has_image: NDArray[np.bool_]
    """Shape (N,)."""
    signals: Mapping[str, NDArray[np.floating]]
    """Signal name -> values of the rows with an image, shape (M, ...), M = has_image.sum()."""
    cluster_ids: NDArray[np.int32] | None
    """Clusters of the rows with an image, shape (M,), if the method asked for them."""
    text_only: TextOnlyPolicy
    """What happens to the text-only stratum."""


@dataclass(frozen=True)
class Ranking:
    """The pool in selection order. A budget of B is the first B rows: it is nested."""

    order: NDArray[np.int64]
    """Row numbers of the pool, shape (R,), each at most once. Rows left out are never selected."""
    clusters: NDArray[np.int32]
    """Shape (R,): cluster of each ranked row, -1 where there is none."""
    instability: NDArray[np.float64]
    """Shape (R,): NaN where the method has none."""


class SelectionMethod(Protocol):
    """A nested method. Its dataclass fields are its hyper-parameters."""

    def rank(self, pool: CandidatePool, rng: np.random.Generator) -> Ranking:
        """Rank the pool. Same pool and generator state, same ranking; ties are broken by uid."""
