"""The numbers of a comparison: every method at every budget beside random, as one JSON-able dict that the page shows.

Owns verdicts over all comparisons at once, overlaps and sums of costs. Refuses to own files, charts and layout.
Legend: S training seeds, E held-out examples, B examples of a subset.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from xmas_job.core.performance import average_relative_performance, bootstrap_interval, holm, paired_difference
from xmas_job.reports.facts import Score

SCHEMA_VERSION = 2
LEVEL = 0.05
RANDOM, FULL = "random", "full"
COST_GROUPS = {"ingest": "data", "pool": "data", "train_proxy": "proxy", "select": "choice", "publish": "choice"}
"""Stage -> what its seconds are for; all others between are there for the signals."""
TARGETS = ("train_target", "evaluate")

Json = dict[str, Any]
State = Literal["done", "failed", "refused", "unfinished"]


@dataclass(frozen=True)
class StageCost:
    """Seconds of one artifact, when it was built; `artifact` tells what several methods share."""

    stage: str
    artifact: str
    seconds: float


@dataclass(frozen=True)
class Arm:
    """Subsets of one size and the targets trained on them. A method has one subset, random one a seed.

    subsets: uids (B,) each. correct: (S, E) bool, None unless every target of the arm was scored.
    """

    name: str
    budget: str
    subsets: tuple[NDArray[np.str_], ...] = ()
    scores: tuple[Score, ...] = ()
    correct: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Contender:
    """A method at a budget: its arm, what came of its run, and what it cost, shared stages included."""

    arm: Arm
    state: State
    run_id: str | None = None
    selection_id: str | None = None
    num_eligible: int | None = None
    error: str = ""
    remedy: str = ""
    costs: tuple[StageCost, ...] = ()


@dataclass(frozen=True)
class ComparisonFacts:
    """What a comparison has found so far. `references` are random at every budget and, where asked for, full."""

    comparison_id: str
    created_at: str
    datasets: tuple[str, ...]
    held_out: str | None
    num_seeds: int | None
    budgets: tuple[str, ...]
    contenders: tuple[Contender, ...]
    references: tuple[Arm, ...] = ()
    commands: tuple[tuple[str, str], ...] = ()


def build_comparison(facts: ComparisonFacts) -> Json:
    """Everything the joint report states, ready for `json.dumps(..., allow_nan=False)`."""
    results = [_result(contender, facts) for contender in facts.contenders]
    tested = [result["difference"] for result in results if result["difference"]]
    for difference, p_value in zip(tested, holm([found["p_value"] for found in tested]), strict=True):
        difference["p_holm"] = p_value
        difference["verdict"] = difference["alone"] if p_value < LEVEL else "no difference"
    return {
        "schema_version": SCHEMA_VERSION,
        "comparison": {
            name: getattr(facts, name)
            for name in ("comparison_id", "created_at", "datasets", "held_out", "num_seeds", "budgets")
        },
        "headline": _headline(results),
        "level": LEVEL,
        "num_comparisons": len(tested),
        "intervals": _intervals(facts.num_seeds) if tested else "",
        "results": results,
        "references": [_scored(arm, facts) for arm in facts.references if arm.scores],
        "overlaps": [found for budget in facts.budgets if (found := _overlap(budget, facts))],
        "families": [found for budget in facts.budgets if (found := _families(budget, facts))],
        "costs": _costs(facts.contenders),
        "commands": [{"purpose": purpose, "command": command} for purpose, command in facts.commands],
    }


def _result(contender: Contender, facts: ComparisonFacts) -> Json:
    return {
        **_scored(contender.arm, facts),
        "state": contender.state,
        "error": contender.error,
        "remedy": contender.remedy,
        "run_id": contender.run_id,
        "selection_id": contender.selection_id,
        "num_examples": len(contender.arm.subsets[0]) if contender.arm.subsets else None,
        "difference": _difference(contender.arm, _reference(RANDOM, contender.arm.budget, facts)),
    }


def _scored(arm: Arm, facts: ComparisonFacts) -> Json:
    """Mean over seeds, every seed, and the mean relative to the target trained on the whole pool."""
    overall = [score for score in arm.scores if score.source is None]
    mean = float(np.mean([score.mean for score in overall])) if overall else None
    full = next((found for found in facts.references if found.name == FULL), None)
    whole = [score.mean for score in full.scores if score.source is None and score.mean > 0] if full else []
    relative = average_relative_performance({"": mean}, {"": whole[0]}) if mean is not None and whole else None
    return {
        "method": arm.name,
        "budget": arm.budget,
        "benchmark": overall[0].benchmark if overall else None,
        "metric": overall[0].metric if overall else None,
        "mean": mean,
        "seeds": [{"seed": score.seed, "mean": score.mean} for score in overall],
        "relative": relative,
    }


def _reference(name: str, budget: str, facts: ComparisonFacts) -> Arm | None:
    return next((arm for arm in facts.references if arm.name == name and arm.budget == budget), None)


def _difference(arm: Arm, random: Arm | None) -> Json | None:
    """The paired difference to random; `alone` is its verdict as if it were the only comparison.

    `same_models` is the bootstrap interval over other held-out examples for the models that were trained. It is shown
    beside the wide one, which alone gives the verdict.
    """
    if random is None or arm.correct is None or random.correct is None:
        return None
    found = dataclasses.asdict(paired_difference(arm.correct, random.correct, 1 - LEVEL))
    low, high = bootstrap_interval(arm.correct, random.correct, 1 - LEVEL)
    return {
        **found,
        "alone": found.pop("verdict"),
        "same_models": {"low": low, "high": high},
        "num_seeds": arm.correct.shape[0],
        "num_examples": arm.correct.shape[1],
    }


def _intervals(num_seeds: int | None) -> str:
    """What the two intervals of a difference say beside each other."""
    if num_seeds == 1:
        return (
            "With one seed both intervals ask what other held-out examples would have said of these trained models. "
            "Only more seeds can tell what other trainings would."
        )
    return (
        "The wide interval asks what other held-out examples and other seeds would have said, and alone gives the "
        "verdict; the narrow one (same models) what other examples would have said of these trained models. Where only "
        "the narrow one leaves out 0, more seeds are needed; where it holds 0 too, more held-out examples as well."
    )


def _headline(results: Sequence[Json]) -> Json:
    verdicts = [result["difference"]["verdict"] for result in results if result["difference"]]
    counted = {verdict: verdicts.count(verdict) for verdict in ("better", "worse", "no difference")}
    shown = [verdict for verdict in ("better", "worse") if counted[verdict]]
    verdict = "not measured" if not verdicts else "mixed" if len(shown) > 1 else shown[0] if shown else "no difference"
    taken_alone = [result["difference"]["alone"] for result in results if result["difference"]]
    alone = {verdict: taken_alone.count(verdict) for verdict in ("better", "worse")}
    return {"verdict": verdict, "counted": counted, "alone": alone, "num_without": len(results) - len(verdicts)}


def _overlap(budget: str, facts: ComparisonFacts) -> Json | None:
    """Examples in common of any two subsets of one budget: their number over B, and over their union (Jaccard).

    Several draws of one arm count as their mean; of an arm with itself, only different draws, or 1 if there is one.
    """
    contenders = [found for found in facts.contenders if found.arm.budget == budget and found.arm.subsets]
    random = _reference(RANDOM, budget, facts)
    arms = [found.arm for found in contenders] + ([random] if random and random.subsets else [])
    if len(arms) < 2:
        return None
    pairs = [[_pair(one, other) for other in arms] for one in arms]
    eligible = next((found.num_eligible for found in contenders if found.num_eligible), None)
    size = len(arms[0].subsets[0])
    return {
        "budget": budget,
        "num_examples": size,
        "methods": [arm.name if arm is not random else f"{RANDOM} (mean)" for arm in arms],
        "shared": [[shared for shared, _ in row] for row in pairs],
        "jaccard": [[jaccard for _, jaccard in row] for row in pairs],
        "by_chance": size / eligible if eligible else None,
    }


def _pair(one: Arm, other: Arm) -> tuple[float, float]:
    found = [
        shared_and_jaccard(a, b)
        for i, a in enumerate(one.subsets)
        for j, b in enumerate(other.subsets)
        if one is not other or i != j or len(one.subsets) == 1
    ]
    shared, jaccard = np.mean(found, axis=0)
    return float(shared), float(jaccard)


def shared_and_jaccard(a: NDArray[np.str_], b: NDArray[np.str_]) -> tuple[float, float]:
    """Examples in common over the smaller set's size, and over their union; uids are distinct in each."""
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common / min(len(a), len(b)), common / (len(a) + len(b) - common)


def _families(budget: str, facts: ComparisonFacts) -> Json | None:
    """Mean score minus random's by source of the held-out examples; sources in alphabetical order."""
    random = _reference(RANDOM, budget, facts)
    arms = [found.arm for found in facts.contenders if found.arm.budget == budget and found.arm.correct is not None]
    if random is None or random.correct is None or not arms:
        return None
    means = _by_source(random)
    counts = {score.source: score.num_examples for score in random.scores if score.source is not None}
    if len(means) < 2:
        return None
    rows = [
        {"method": arm.name, "differences": [_by_source(arm)[name] - means[name] for name in means]} for arm in arms
    ]
    return {
        "budget": budget,
        "sources": [{"source": name, "num_examples": counts[name], "random": mean} for name, mean in means.items()],
        "rows": rows,
    }


def _by_source(arm: Arm) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for score in arm.scores:
        if score.source is not None:
            found.setdefault(score.source, []).append(score.mean)
    return {name: float(np.mean(found[name])) for name in sorted(found)}


def _costs(contenders: Sequence[Contender]) -> Json:
    """Seconds a method needs, whoever built it; and what was paid in all, every artifact once."""
    rows = []
    for contender in contenders:
        if not contender.costs:
            continue
        groups = dict.fromkeys(("data", "proxy", "signals", "choice", "targets"), 0.0)
        stages: dict[str, float] = {}
        for cost in contender.costs:
            group = "targets" if cost.stage in TARGETS else COST_GROUPS.get(cost.stage, "signals")
            groups[group] += cost.seconds
            stages[cost.stage] = stages.get(cost.stage, 0.0) + cost.seconds
        choosing = sum(groups.values()) - groups["targets"]
        name = {"method": contender.arm.name, "budget": contender.arm.budget}
        rows.append({**name, "choosing": choosing, "groups": groups, "stages": stages})
    paid = {cost.artifact: cost.seconds for contender in contenders for cost in contender.costs}
    asked = sum(cost.seconds for contender in contenders for cost in contender.costs)
    return {"rows": rows, "seconds_paid": sum(paid.values()), "seconds_if_apart": asked}
