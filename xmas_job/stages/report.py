"""report: the numbers of a run; `release` renders them as one page in the run's folder.

The numbers depend on the inputs alone and are cached. What belongs to one run (its id, its times) joins on the page.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from xmas_job import __version__
from xmas_job.catalog.methods import find_method
from xmas_job.catalog.signals import SIGNALS
from xmas_job.config import ReportConfig
from xmas_job.core.performance import average_relative_performance, paired_difference
from xmas_job.data.defects import REASONS
from xmas_job.fingerprint import canonical_json
from xmas_job.pipeline import FULL, RANDOM, SUBSET, node_id, split_training_key
from xmas_job.reports.facts import (
    NO_CLUSTER,
    NO_RANK,
    Comparison,
    Evaluation,
    Pool,
    QuarantineReason,
    RunFacts,
    Score,
    Trajectories,
)
from xmas_job.reports.numbers import build_numbers
from xmas_job.reports.page import render
from xmas_job.runner import Run
from xmas_job.sections import ClusterSection
from xmas_job.stage_io import Metrics, StageIO
from xmas_job.stages.costs import shown_costs
from xmas_job.storage.journal import outcome_key, rerun_command
from xmas_job.storage.manifest import MANIFEST, Manifest, parse_manifest
from xmas_job.storage.record import Artifact, read_record
from xmas_job.storage.schemas import ASSIGNMENTS, POOL, PREDICTIONS, QUARANTINE, RANKING, SCORES
from xmas_job.storage.store import Store
from xmas_job.storage.tables import array_of, read_table

NUMBERS = "numbers.json"


def run(_: ReportConfig, io: StageIO) -> Metrics:
    """Write `numbers.json`: everything the page states that the inputs determine."""
    selection = io.artifact("selection")
    manifest = parse_manifest(selection.read(MANIFEST), where=selection.key(MANIFEST))
    pool = _pool(io, manifest)
    numbers = build_numbers(
        _facts(io, manifest),
        pool,
        stages=[],
        trajectories=_trajectories(io, manifest.resolved.num_examples),
        evaluation=_evaluation(io, _arm_name(manifest.method.name)) if io.artifacts["scores"] else None,
    )
    if numbers["evaluation"] and FULL in numbers["evaluation"]["arms"]:
        numbers["evaluation"]["average_relative_performance"] = _relative_performance(numbers["evaluation"])
    io.output.data(NUMBERS, canonical_json(numbers))
    return {"selection_id": manifest.selection_id, "verdict": numbers["headline"]["verdict"]}


def release(artifact: Artifact, run: Run, _: str) -> None:
    """Write runs/<run_id>/report/{index.html,report.json}. Safe to repeat."""
    store = artifact.store
    numbers: dict[str, Any] = json.loads(artifact.read(NUMBERS))
    numbers["run"] |= {"run_id": run.run_id, "created_at": run.created_at, "channel": run.config.channel}
    numbers["run"]["software"] = {"xmas_job": __version__}
    numbers["run"]["commands"] += [
        {"purpose": "See the run again", "command": f"xmas-job show {run.run_id}"},
        {"purpose": "Run the same again", "command": rerun_command(store, run.run_id)},
    ]
    # A launcher may have taken over stages that were there without noting them in this run.
    keys = [outcome_key(run.run_id, node) for node in run.nodes if node != node_id("report")]
    outcomes = [json.loads(store.read(key)) for key in keys if store.exists(key)]
    numbers["stages"] = [
        {**{name: outcome[name] for name in ("stage", "status", "seconds", "digest")}, "cost": _cost(store, outcome)}
        for outcome in outcomes
    ]
    folder = f"runs/{run.run_id}/report"
    store.put(f"{folder}/report.json", canonical_json(numbers))
    store.put(f"{folder}/index.html", render(numbers).encode())


def _cost(store: Store, outcome: dict[str, Any]) -> dict[str, Any]:
    """What its record says that the stage was estimated to take and took, whichever run built it."""
    try:
        return shown_costs(read_record(store, f"{outcome['address']}/record.json").metrics)
    except FileNotFoundError:
        return {}  # cleared away since


def _relative_performance(evaluation: dict[str, Any]) -> dict[str, float] | None:
    """ARP of every arm in percent of the target that was trained on the whole pool.

    None where that one scores 0 somewhere: a ratio to it means nothing, and the trainings were paid for all the same.
    """
    scores: dict[str, dict[str, float]] = {arm: {} for arm in evaluation["arms"]}
    for benchmark in evaluation["benchmarks"]:
        for arm in benchmark["arms"]:
            scores[arm["arm"]][benchmark["benchmark"]] = arm["mean"]
    if not all(full > 0 for full in scores[FULL].values()):
        return None
    return {arm: average_relative_performance(own, scores[FULL]) for arm, own in scores.items()}


def _facts(io: StageIO, manifest: Manifest) -> RunFacts:
    ingested = io.artifacts["ingest"]
    reasons: Counter[str] = Counter()
    for artifact in ingested:
        reasons.update(read_table(artifact, "quarantine.parquet", QUARANTINE, ["reason"])["reason"].to_pylist())
    meanings = {str(code): meaning for code, meaning in REASONS.items()}
    dropped = manifest.snapshot
    return RunFacts(
        run_id="",
        created_at="",
        method=manifest.method.name,
        budget_asked=manifest.request.budget,
        selection_id=manifest.selection_id,
        num_landed=sum(int(str(artifact.record.metrics["num_rows"])) for artifact in ingested),
        num_duplicates=dropped.num_duplicates,
        quarantine=tuple(QuarantineReason(code, count, meanings[code]) for code, count in reasons.items()),
        provenance={
            "datasets": ", ".join(manifest.snapshot.datasets),
            "snapshot": manifest.snapshot.id,
            "method parameters": json.dumps(manifest.method.params, sort_keys=True),
            "text-only policy": manifest.method.text_only,
            "seed": str(manifest.method.seed),
            "proxy": manifest.proxy.digest if manifest.proxy else "none",
        },
        commands=(("Prove the subset from its files alone", f"xmas-job verify {manifest.selection_id}"),),
    )


def _pool(io: StageIO, manifest: Manifest) -> Pool:
    """Columns of the pool, joined with its ranking; all tables are sorted by uid."""
    table = read_table(io.artifact("pool"), "pool.parquet", POOL)
    ranking = read_table(io.artifact("ranking"), "ranking.parquet", RANKING)
    rows = pc.index_in(ranking["uid"], table["uid"].combine_chunks()).to_numpy()
    num_examples = table.num_rows
    rank = np.full(num_examples, NO_RANK, dtype=np.int64)
    rank[rows] = ranking["rank"].to_numpy()
    cluster = np.full(num_examples, NO_CLUSTER, dtype=np.int32)
    cluster[rows] = ranking["cluster"].to_numpy()
    is_nested = find_method(manifest.method.name).nested
    if not is_nested:  # the ranking holds only what was chosen
        for clustered in (*io.artifacts["cluster"], *io.artifacts.get("apply_selector", ())):
            assigned = read_table(clustered, "assignments.parquet", ASSIGNMENTS, ["uid", "cluster"])
            members = pc.index_in(assigned["uid"], table["uid"].combine_chunks()).to_numpy()
            cluster[members] = assigned["cluster"].to_numpy()
    instability = np.full(num_examples, np.nan)
    instability[rows] = ranking["instability"].to_numpy()
    scored = ~np.isnan(instability)
    sources = table["source"].combine_chunks().dictionary_encode()
    return Pool(
        source=sources.indices.to_numpy(),
        source_names=tuple(sources.dictionary.to_pylist()),
        text_only=table["modality"].to_numpy() == "text",
        selected=(rank != NO_RANK) & (rank <= manifest.resolved.num_examples),
        cluster=cluster if (cluster != NO_CLUSTER).any() else None,
        instability=instability if scored.any() else None,
        scored=scored if scored.any() else None,
        rank=rank if is_nested else None,
    )


def _trajectories(io: StageIO, size: int) -> Trajectories | None:
    """The curves that were clustered, if any: over all checkpoints, of a signal that is one number at each."""
    if not io.artifacts["cluster"]:
        return None
    clustered = io.artifact("cluster")
    section = ClusterSection.model_validate(clustered.record.section)
    if section.checkpoints != "all" or SIGNALS[section.signal].is_vector:
        return None
    table = read_table(clustered, "trajectories.parquet")
    values = array_of(table["trajectory"])
    values = values.sum(axis=2) if values.ndim == 3 else values
    ranking = read_table(io.artifact("ranking"), "ranking.parquet", RANKING, ["uid", "rank"])
    chosen = ranking.filter(pc.less_equal(ranking["rank"], size))["uid"].combine_chunks()
    positions = json.loads(io.artifact("proxy").read("positions.json"))
    return Trajectories(
        values=values,
        cluster=read_table(clustered, "assignments.parquet", ASSIGNMENTS, ["cluster"])["cluster"].to_numpy(),
        selected=pc.is_in(table["uid"], chosen).to_numpy(),
        positions=tuple(position["fraction"] for position in positions if position["checkpoint"] > 0),
        signal=section.signal,
        meaning=SIGNALS[section.signal].meaning,
    )


def _arm_name(method: str) -> str:
    """How the asked-for arm is called beside the baseline and the reference."""
    return f"{method} (asked for)" if method in {RANDOM, FULL} else method


def _evaluation(io: StageIO, asked: str) -> Evaluation:
    scores: list[Score] = []
    correct: dict[str, list[NDArray[np.bool_]]] = {}
    for artifact in io.artifacts["scores"]:
        arm, seed = split_training_key(artifact.node_id.partition(":")[2])
        name = asked if arm == SUBSET else arm.partition(".")[0]
        scores += scores_of(artifact, name, seed)
        correct.setdefault(name, []).append(
            read_table(artifact, "predictions.parquet", PREDICTIONS, ["correct"])["correct"].to_numpy()
        )
    difference = paired_difference(np.stack(correct[asked]), np.stack(correct[RANDOM]))
    comparison = Comparison(
        arm=asked,
        baseline=RANDOM,
        benchmark=scores[0].benchmark,
        metric=scores[0].metric,
        difference=difference,
        num_seeds=len(correct[RANDOM]),
        num_examples=correct[RANDOM][0].size,
    )
    return Evaluation(tuple(scores), (comparison,))


def scores_of(artifact: Artifact, arm: str, seed: int) -> Sequence[Score]:
    """What `evaluate` found: of the whole benchmark and of its sources."""
    return [
        Score(
            arm=arm,
            seed=seed,
            benchmark=row["benchmark"],
            metric=row["metric"],
            mean=row["value"],
            standard_error=row["standard_error"],
            num_examples=row["num_examples"],
            source=row["source"],
        )
        for row in read_table(artifact, "scores.parquet", SCORES).to_pylist()
    ]
