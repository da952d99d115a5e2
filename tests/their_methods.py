"""Methods that are no part of the package, as "tests.their_methods:Backwards": cheap arms of comparisons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xmas_job.catalog.methods import MethodEntry, SignalNeed
from xmas_job.selection.contract import CandidatePool, Ranking, Selection


def _as_ranking(order: Any) -> Ranking:
    return Ranking(order, np.full(order.size, -1, dtype=np.int32), np.full(order.size, np.nan))


@dataclass(frozen=True)
class Backwards:
    """The last uid first."""

    entry: ClassVar[MethodEntry] = MethodEntry("tests.their_methods:Backwards", "-", "the last", "nothing", nested=True)

    def rank(self, pool: CandidatePool, rng: np.random.Generator) -> Ranking:
        return _as_ranking(np.arange(pool.uids.size)[::-1].copy())


@dataclass(frozen=True)
class EveryOther:
    """Evenly spaced uids: another budget chooses otherwise."""

    entry: ClassVar[MethodEntry] = MethodEntry("tests.their_methods:EveryOther", "-", "-", "nothing", nested=False)

    def select(self, pool: CandidatePool, budget: int, rng: np.random.Generator) -> Selection:
        rows = np.arange(budget) * pool.uids.size // budget
        return Selection(rows, np.full(budget, -1, dtype=np.int32))


@dataclass(frozen=True)
class Breaks:
    """Has a defect that no plan can see."""

    entry: ClassVar[MethodEntry] = MethodEntry("tests.their_methods:Breaks", "-", "-", "nothing", nested=True)

    def rank(self, pool: CandidatePool, rng: np.random.Generator) -> Ranking:
        raise ArithmeticError("out of luck")


@dataclass(frozen=True)
class NeedsMore(Backwards):
    """Its signal does not exist."""

    entry: ClassVar[MethodEntry] = MethodEntry(
        "tests.their_methods:NeedsMore",
        "-",
        "-",
        "proxy and one pass",
        nested=True,
        signals=(SignalNeed("curvature", "last"),),
    )
