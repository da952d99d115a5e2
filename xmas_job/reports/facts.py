"""What a report is made from: one run's facts and arrays, as the stage hands them over.

Owns the shapes and what may be absent. Refuses to own where the facts are stored and how they are shown.
Legend: N examples in the pool, M scored examples, T checkpoints, S sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from xmas_job.core.performance import PairedDifference

NO_CLUSTER = -1
NO_RANK = -1


@dataclass(frozen=True)
class QuarantineReason:
    """One reason code of the quarantine table, how often it struck and what it means in words."""

    code: str
    num_examples: int
    explanation: str


@dataclass(frozen=True)
class RunFacts:
    """The run as asked, as resolved and as it can be repeated.

    `created_at` is shown as given. `num_landed` counts rows before quarantine and duplicates. `provenance` and
    `software` are shown as two-column tables in their own order; `commands` are (purpose, command line) pairs.
    """

    run_id: str
    created_at: str
    method: str
    budget_asked: str
    selection_id: str
    num_landed: int
    num_duplicates: int
    channel: str | None = None
    quarantine: tuple[QuarantineReason, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    software: Mapping[str, str] = field(default_factory=dict)
    commands: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Pool:
    """The eligible examples, column by column, all in one order.

    source: (N,) integer codes into `source_names` (what a dictionary-encoded column holds).
    text_only, selected: (N,) bool.
    cluster: (N,) integers, `NO_CLUSTER` where an example is in none; None when the method does not cluster.
    instability: (N,) floats, read only where `scored` is true; None when there is none (other methods, T = 1).
    scored: (N,) bool, true where an example has an instability; required with it.
    rank: (N,) distinct integers, the best smallest, `NO_RANK` where the method leaves an example out whatever the
        budget; None when the selection is not a prefix of a ranking.
    """

    source: NDArray[np.integer]
    source_names: tuple[str, ...]
    text_only: NDArray[np.bool_]
    selected: NDArray[np.bool_]
    cluster: NDArray[np.integer] | None = None
    instability: NDArray[np.floating] | None = None
    scored: NDArray[np.bool_] | None = None
    rank: NDArray[np.integer] | None = None

    def __post_init__(self) -> None:
        num_examples = len(self.source)
        columns = {name: getattr(self, name) for name in ("text_only", "selected", "cluster", "instability", "scored")}
        for name, column in {**columns, "rank": self.rank}.items():
            if column is not None and column.shape != (num_examples,):
                raise ValueError(f"pool column {name} has shape {column.shape}, source has {num_examples} examples")
        if not self.selected.any():
            raise ValueError("a report needs at least one selected example")
        if (self.instability is None) != (self.scored is None):
            raise ValueError("instability and scored come together or not at all")


@dataclass(frozen=True)
class Trajectories:
    """One signal of the scored examples over training.

    values: (M, T). cluster: (M,). selected: (M,) bool. positions: (T,) fraction of the examples seen, ascending.
    signal, meaning: its name and what it is, in words.
    """

    values: NDArray[np.floating]
    cluster: NDArray[np.integer]
    selected: NDArray[np.bool_]
    positions: tuple[float, ...]
    signal: str = "alignment"
    meaning: str = "sum of the top singular values of the cross-modal attention block"


@dataclass(frozen=True)
class StageFacts:
    """One stage of the run: reused (`hit`) or computed (`built`), how long that took, and what came out.

    `cost` is that of its building, whichever run built it: gpu_hours, pflops, and estimated_ of both.
    """

    stage: str
    status: Literal["hit", "built"]
    seconds: float
    digest: str
    cost: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """The score of one arm trained with one seed. `source` None means the whole benchmark; higher is better.

    `standard_error` is None where a single example cannot show it.
    """

    arm: str
    seed: int
    benchmark: str
    metric: str
    mean: float
    standard_error: float | None
    num_examples: int
    source: str | None = None


@dataclass(frozen=True)
class Comparison:
    """The paired difference `arm` minus `baseline` on a whole benchmark; `confidence` is the level of its interval."""

    arm: str
    baseline: str
    benchmark: str
    metric: str
    difference: PairedDifference
    num_seeds: int
    num_examples: int
    confidence: float = 0.95


@dataclass(frozen=True)
class Evaluation:
    """All scores of a run and the comparisons that the headline speaks about, one a benchmark."""

    scores: tuple[Score, ...]
    comparisons: tuple[Comparison, ...] = ()
