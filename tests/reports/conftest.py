"""One small pool whose every number can be checked by hand, and the facts around it."""

from __future__ import annotations

import numpy as np
import pytest

from xmas_job.core.performance import PairedDifference, Verdict
from xmas_job.reports.facts import (
    Comparison,
    Evaluation,
    Pool,
    QuarantineReason,
    RunFacts,
    Score,
    StageFacts,
    Trajectories,
)

INTERVALS: dict[str, tuple[float, float, float]] = {
    "better": (0.05, 0.02, 0.08),
    "worse": (-0.05, -0.08, -0.02),
    "no difference": (0.01, -0.02, 0.04),
}


def make_evaluation(verdict: Verdict, *, num_seeds: int = 1, benchmark: str = "held-out") -> Evaluation:
    """xmas against random (0.600), each seed alike."""
    mean, low, high = INTERVALS[verdict]
    scores = [
        Score(arm, seed, benchmark, "exact match", value, 0.02, 400, source)
        for arm, value in (("xmas", 0.6 + mean), ("random", 0.6))
        for seed in range(1, num_seeds + 1)
        for source in (None, "shapes", "charts")
    ]
    difference = PairedDifference(mean, 0.015, low, high, verdict, p_value=0.5 if verdict == "no difference" else 0.01)
    comparison = Comparison("xmas", "random", benchmark, "exact match", difference, num_seeds, 400)
    return Evaluation(tuple(scores), (comparison,))


@pytest.fixture(scope="session")
def run() -> RunFacts:
    return RunFacts(
        run_id="run-1",
        created_at="2026-01-02 03:04 UTC",
        method="xmas",
        budget_asked="40%",
        selection_id="sel-1",
        num_landed=20,
        num_duplicates=4,
        channel="demo",
        quarantine=(
            QuarantineReason("empty_answer", 1, "An answer has no text."),
            QuarantineReason("missing_image", 5, "There is no such image file."),
        ),
        provenance={"manifest": "file:///store/manifest.json"},
        software={"numpy": "2.0"},
        commands=(("Run it again", "xmas-job run --recipe demo --budget 40%"),),
    )


@pytest.fixture(scope="session")
def pool() -> Pool:
    """Ten examples: rows 0-3 are cluster 0, 4-6 cluster 1, 7-8 cluster 2, row 9 is text-only; 0, 1, 6, 9 are kept."""
    return Pool(
        source=np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 2]),
        source_names=("shapes", "charts", "text", "empty"),
        text_only=np.arange(10) == 9,
        selected=np.isin(np.arange(10), [0, 1, 6, 9]),
        cluster=np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, -1]),
        instability=np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.05, 0.7, 0.8, np.nan]),
        scored=np.arange(10) != 9,
        rank=np.array([0, 3, 6, 7, 4, 8, 1, 5, 9, 2]),
    )


@pytest.fixture(scope="session")
def trajectories() -> Trajectories:
    return Trajectories(
        values=np.array([[0, 1], [10, 11], [20, 21], [5, 5], [7, 9]], dtype=np.float32),
        cluster=np.array([4, 4, 4, 2, 2]),
        selected=np.array([True, False, False, True, True]),
        positions=(0.5, 1.0),
    )


@pytest.fixture(scope="session")
def stages() -> tuple[StageFacts, ...]:
    return (
        StageFacts("ingest", "hit", 0.02, "a" * 64),
        StageFacts("extract", "built", 61.0, "b" * 64, {"gpu_hours": 0.25, "estimated_gpu_hours": 0.5}),
        StageFacts("cluster", "built", 2.0, "c" * 64),
    )
