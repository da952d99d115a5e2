"""The joint report of a comparison, from the store alone: whatever its runs have come to, however they were run.

Owns what is read of the runs and where the report lies. Numbers and page are in `reports`.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from xmas_job.commands.comparison import Comparison, folder, read_comparison
from xmas_job.commands.comparison_request import Entry
from xmas_job.commands.resolve import read_run
from xmas_job.environment import Environment
from xmas_job.fingerprint import Json, canonical_json
from xmas_job.pipeline import FULL, RANDOM, SUBSET, is_source, node_id, split_training_key
from xmas_job.reports.comparison import TARGETS, Arm, ComparisonFacts, Contender, StageCost, State, build_comparison
from xmas_job.reports.comparison_page import render
from xmas_job.reports.facts import Score
from xmas_job.runner import Runner
from xmas_job.stages.report import scores_of
from xmas_job.storage.journal import failures, outcome_key, recipe_key
from xmas_job.storage.record import Artifact
from xmas_job.storage.roots import open_store
from xmas_job.storage.schemas import PREDICTIONS
from xmas_job.storage.schemas import SUBSET as SUBSET_SCHEMA
from xmas_job.storage.store import Store
from xmas_job.storage.tables import read_table


def report_comparison(environment: Environment, comparison_id: str) -> dict[str, Json]:
    """Write comparisons/<id>/report/{index.html,report.json}; what `compare` prints. Safe to repeat.

    Raises:
        UsageError: if there is no such comparison.
    """
    store = open_store(environment.store_root)
    comparison = read_comparison(store, comparison_id)
    runs = {entry.name: read_run(store, comparison.run_id(entry)) for entry in comparison.running}
    runners = {name: Runner(store, environment, run) for name, run in runs.items()}
    numbers = build_comparison(_facts(store, comparison, runners))
    key = f"{folder(comparison_id)}/report"
    store.put(f"{key}/report.json", canonical_json(numbers))
    store.put(f"{key}/index.html", render(numbers).encode())
    return {
        "comparison": comparison_id,
        "verdict": numbers["headline"]["verdict"],
        "report": f"{store.uri}/{key}/index.html",
        **{
            name: numbers[name]
            for name in ("num_comparisons", "intervals", "results", "references", "overlaps", "costs")
        },
    }


def _facts(store: Store, comparison: Comparison, runners: dict[str, Runner]) -> ComparisonFacts:
    run = next(iter(runners.values())).run
    config = run.config
    compared = config.comparison
    references = [_random(comparison, runners, budget) for budget in comparison.budgets] if compared else []
    if compared and compared.with_full:
        references.append(_arm(FULL, "", list(runners.values()), [FULL], [f"{FULL}/0"]))
    recipe = unquote(f"{store.uri}/{recipe_key(run.run_id)}".removeprefix("file://"))
    command = f"xmas-job compare --recipe {shlex.quote(recipe)} --methods {shlex.quote(','.join(comparison.methods))}"
    return ComparisonFacts(
        comparison_id=comparison.comparison_id,
        created_at=comparison.created_at,
        datasets=config.datasets,
        held_out=compared.evaluate.dataset if compared else None,
        num_seeds=compared.num_seeds if compared else None,
        budgets=comparison.budgets,
        contenders=tuple(
            _contender(store, entry, runners[entry.name]) if entry.name in runners else _refused(entry)
            for entry in comparison.entries
        ),
        references=tuple(references),
        commands=(
            ("Compare the same again", f"{command} --budgets {shlex.quote(','.join(comparison.budgets))}"),
            ("Write this report again", f"xmas-job compare-report {comparison.comparison_id}"),
        ),
    )


def _refused(entry: Entry) -> Contender:
    return Contender(Arm(entry.method, entry.budget), "refused", error=entry.error, remedy=entry.remedy)


def _contender(store: Store, entry: Entry, runner: Runner) -> Contender:
    run_id = runner.run.run_id
    state, error, remedy = _state(store, runner)
    published = runner.find(node_id("publish", SUBSET))
    metrics: Any = published.record.metrics if published else {}
    trainings = [f"{SUBSET}/{seed}" for seed in range(_num_seeds(runner))]
    return Contender(
        arm=_arm(entry.method, entry.budget, [runner], [SUBSET], trainings),
        state=state,
        run_id=run_id,
        selection_id=metrics.get("selection_id"),
        num_eligible=metrics.get("num_eligible"),
        error=error,
        remedy=remedy,
        costs=_costs(runner),
    )


def _state(store: Store, runner: Runner) -> tuple[State, str, str]:
    """What came of the run, and what stopped it."""
    run_id = runner.run.run_id
    if all(store.exists(outcome_key(run_id, node)) for node in runner.run.nodes):
        if all(runner.find(node) for node in runner.run.nodes):
            return "done", "", ""
        return "unfinished", "what it built is gone, or of another version of xmas_job.", "Compare the same again."
    if noted := failures(store, run_id):
        last = noted[-1]
        return "failed", f"{last['stage']}: {last['error']}", str(last["remedy"])
    return "unfinished", "its run has not ended.", f"See xmas-job status {run_id}"


def _num_seeds(runner: Runner) -> int:
    compared = runner.run.config.comparison
    return compared.num_seeds if compared else 0


def _random(comparison: Comparison, runners: dict[str, Runner], budget: str) -> Arm:
    """The random draws of one budget: equal in all its runs, so taken from whichever has them."""
    found = [runners[entry.name] for entry in comparison.running if entry.budget == budget]
    draws = [f"{RANDOM}.{seed}" for seed in range(_num_seeds(found[0]))] if found else []
    return _arm(RANDOM, budget, found, draws, [f"{draw}/{seed}" for seed, draw in enumerate(draws)])


def _arm(name: str, budget: str, runners: Sequence[Runner], subsets: Sequence[str], trainings: Sequence[str]) -> Arm:
    """What is there of the arm; scores only if there are those of all its trainings."""
    chosen = [found for key in subsets if (found := _find(runners, node_id("publish", key)))]
    scored = [found for key in trainings if (found := _find(runners, node_id("evaluate", key)))]
    is_scored = bool(trainings) and len(scored) == len(trainings)
    return Arm(
        name,
        budget,
        subsets=tuple(_uids(artifact) for artifact in chosen),
        scores=tuple(score for artifact in scored for score in _scores(artifact, name)) if is_scored else (),
        correct=np.stack([_correct(artifact) for artifact in scored]) if is_scored else None,
    )


def _find(runners: Sequence[Runner], node: str) -> Artifact | None:
    return next((found for runner in runners if (found := runner.find(node))), None)


def _uids(artifact: Artifact) -> NDArray[np.str_]:
    column = read_table(artifact, "subset.parquet", SUBSET_SCHEMA, ["uid"])["uid"]
    return np.asarray(column.to_pylist(), dtype=np.str_)


def _scores(artifact: Artifact, arm: str) -> Sequence[Score]:
    _, seed = split_training_key(artifact.node_id.partition(":")[2])
    return scores_of(artifact, arm, seed)


def _correct(artifact: Artifact) -> NDArray[np.bool_]:
    return np.asarray(read_table(artifact, "predictions.parquet", PREDICTIONS, ["correct"])["correct"].to_numpy())


def _costs(runner: Runner) -> tuple[StageCost, ...]:
    """Every stage behind the method's own arm, as long as it took when it was built, in whichever run that was.

    Choice: what methods share is charged to each in full, extraction with the signals of all of them.
    """
    needed = {node_id(stage, f"{SUBSET}/{n}") for stage in TARGETS for n in range(_num_seeds(runner))}
    behind = [node_id("publish", SUBSET)]
    while behind:
        node = behind.pop()
        needed.add(node)
        behind += [item for items in runner.run.nodes[node].inputs.values() for item in items if not is_source(item)]
    found = [artifact for node in runner.run.nodes if node in needed if (artifact := runner.find(node))]
    return tuple(
        StageCost(artifact.record.stage, artifact.address, float(str(artifact.record.provenance["seconds"])))
        for artifact in found
    )
