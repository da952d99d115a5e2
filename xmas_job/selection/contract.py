"""What a selection method is: a frozen dataclass of hyper-parameters and a pure function of arrays.

Owns the contract. No file, device, logger or global seed: randomness comes in as a Generator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from xmas_job.errors import BadDataError, UsageError

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
    """Signal name -> values of the rows with an image, shape (M,), (M, T) or (M, D), M = has_image.sum(). Features
    may be memory-mapped: methods read them in blocks and never write."""
    cluster_ids: NDArray[np.int32] | None
    """Clusters of the rows with an image, shape (M,), if the method asked for them."""
    text_only: TextOnlyPolicy
    """What happens to the text-only stratum. Choice: where a method has no clusters to balance, or its quotas need
    features, "cluster" is "proportional"."""
    sources: NDArray[np.str_] | None = None
    """Shape (N,): the dataset each row came from, for methods that balance over sources."""
    centroids: NDArray[np.float32] | None = None
    """Shape (K, D): of the clusters, by their number."""

    def __post_init__(self) -> None:
        """Refuse what no method could rank reproducibly.

        Raises:
            BadDataError: rows out of uid order, twice the same uid, or columns of another length.
        """
        if not (self.uids[:-1] < self.uids[1:]).all():
            raise BadDataError("a pool's uids are not sorted and distinct.", "Build it with CandidatePool.sorted().")
        num_images = int(self.has_image.sum())
        lengths = {name: len(values) for name, values in self.signals.items()}
        lengths |= {} if self.cluster_ids is None else {"cluster_ids": len(self.cluster_ids)}
        wrong = {name: length for name, length in lengths.items() if length != num_images}
        if wrong or len(self.has_image) != self.uids.size:
            raise BadDataError(
                f"a pool of {self.uids.size} rows, {num_images} with an image, has columns of other lengths: {wrong}.",
                "Give every row with an image one value; leave rows without a signal out of the pool.",
            )

    @classmethod
    def sorted(cls, **columns: Any) -> Self:
        """The pool of rows in any order: the same rows give the same pool."""
        order = np.argsort(columns["uids"], kind="stable")
        has_image = columns["has_image"]
        place_among_images = np.cumsum(has_image) - 1
        image_order = place_among_images[order[has_image[order]]]
        columns["signals"] = {name: values[image_order] for name, values in columns["signals"].items()}
        for name in ("uids", "has_image", "sources"):
            if columns.get(name) is not None:
                columns[name] = columns[name][order]
        if columns.get("cluster_ids") is not None:
            columns["cluster_ids"] = columns["cluster_ids"][image_order]
        return cls(**columns)

    def signal(self, name: str) -> NDArray[np.floating]:
        """One number, or one short row, an example: shape (M,) or (M, T).

        Raises:
            UsageError: if the pool has no such signal.
            BadDataError: if a value is not finite.
        """
        values = self.features(name)
        if not np.isfinite(values).all():
            raise BadDataError(
                f"signal {name!r} has {np.count_nonzero(~np.isfinite(values))} values that are not finite.",
                "Leave examples without a signal out of the pool, with their reason.",
            )
        return values

    def features(self, name: str) -> NDArray[np.floating]:
        """Long rows, shape (M, D), perhaps memory-mapped: whoever reads a block checks it.

        Raises:
            UsageError: if the pool has no such signal.
        """
        if name not in self.signals:
            raise UsageError(
                f"the pool has no signal {name!r}; it has: {', '.join(sorted(self.signals)) or 'none'}.",
                "Extract it for this pool, or choose a method without it (xmas-job methods).",
            )
        return self.signals[name]

    def clustering(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Clusters (M,) and centroids (K, D).

        Raises:
            UsageError: if the pool was not clustered.
        """
        if self.cluster_ids is None or self.centroids is None:
            raise UsageError("the pool has no clusters with centroids.", "Cluster the method's signal first.")
        return self.cluster_ids, self.centroids


@dataclass(frozen=True)
class Ranking:
    """The pool in selection order. A budget of B is the first B rows: it is nested."""

    order: NDArray[np.int64]
    """Row numbers of the pool, shape (R,), each at most once. Rows left out are never selected."""
    clusters: NDArray[np.int32]
    """Shape (R,): cluster of each ranked row, -1 where there is none."""
    instability: NDArray[np.float64]
    """Shape (R,): NaN where the method has none."""


@dataclass(frozen=True)
class Selection:
    """The choice of a method that is not nested: another budget may choose otherwise."""

    rows: NDArray[np.int64]
    """Row numbers of the pool, shape (B,), each once, in the order of choice."""
    clusters: NDArray[np.int32]
    """Shape (B,): cluster of each row, -1 where there is none."""


def require_contract(method: str, chosen: object, pool: CandidatePool, budget: int | None = None) -> None:
    """Refuse what no method may return, in its own name: a method may come from anywhere.

    Args:
        method: its name, for the message.
        chosen: what it returned.
        pool: what it was given.
        budget: how many it had to choose; None for a ranking.

    Raises:
        UsageError: if it broke the contract.
    """
    kind = Ranking if budget is None else Selection
    columns = [getattr(chosen, field.name, None) for field in fields(kind)]
    rows = np.asarray(columns[0])
    if not isinstance(chosen, kind):
        why = f"it returned no {kind.__name__} but {type(chosen).__name__}"
    elif not all(isinstance(column, np.ndarray) and column.shape == (rows.size,) for column in columns):
        why = f"the columns of its {kind.__name__} are no arrays of one length"
    elif rows.dtype.kind != "i" or not ((rows >= 0) & (rows < pool.uids.size)).all():
        why = f"its rows are no row numbers of the pool, 0 to {pool.uids.size - 1}"
    elif repeated := rows.size - np.unique(rows).size:
        why = f"it chose {repeated} rows more than once"
    elif pool.text_only == "exclude" and not pool.has_image[rows].all():
        why = "it chose text-only examples, which the policy excludes"
    elif budget is not None and rows.size != budget:
        why = f"it chose {rows.size} rows for a budget of {budget}"
    else:
        return
    raise UsageError(f"method {method!r} broke its contract: {why}.", "Mend the method; see CONTRIBUTING.")


class SelectionMethod(Protocol):
    """A nested method. Its dataclass fields are its hyper-parameters."""

    def rank(self, pool: CandidatePool, rng: np.random.Generator) -> Ranking:
        """Rank the pool. Same pool and generator state, same ranking; ties are broken by uid."""


class BudgetedMethod(Protocol):
    """A method whose choice depends on the budget."""

    def select(self, pool: CandidatePool, budget: int, rng: np.random.Generator) -> Selection:
        """Choose exactly `budget` rows, at most as many as are eligible."""
