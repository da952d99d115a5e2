"""What became of a run: its selection, its report, and every stage's outcome, from the store alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xmas_job.commands.resolve import latest_run_id, read_run
from xmas_job.environment import Environment
from xmas_job.fingerprint import Json
from xmas_job.pipeline import SUBSET, node_id
from xmas_job.runner import Run
from xmas_job.storage.journal import outcome_key, read_outcome
from xmas_job.storage.manifest import MANIFEST
from xmas_job.storage.record import read_record
from xmas_job.storage.roots import open_store
from xmas_job.storage.store import Store

LATEST = "latest"


def show_run(environment: Environment, run_id: str) -> dict[str, Json]:
    """One object for a run; `latest` is the run that was started last.

    `status` is "done" once every stage has an outcome, else "unfinished"; what does not exist, not yet
    or not any more since the store was cleared, is None.
    """
    store = open_store(environment.store_root)
    run = read_run(store, latest_run_id(store) if run_id == LATEST else run_id)
    return describe(store, run)


def describe(store: Store, run: Run) -> dict[str, Json]:
    """The object that `run` and `show` print."""
    outcomes = {node: _outcome(store, run, node) for node in run.nodes}
    published = _metrics(store, outcomes[node_id("publish", SUBSET)])
    selection_id = published.get("selection_id")
    report = f"runs/{run.run_id}/report/index.html"
    stages: list[Json] = [
        {key: outcome[key] for key in ("stage", "status", "seconds", "digest")}
        for outcome in outcomes.values()
        if outcome
    ]
    return {
        "run": run.run_id,
        "status": "done" if all(outcomes.values()) else "unfinished",
        "selection_id": selection_id,
        "num_examples": published.get("num_examples"),
        "manifest": f"{store.uri}/selections/{selection_id}/{MANIFEST}" if selection_id else None,
        "report": f"{store.uri}/{report}" if store.exists(report) else None,
        "channel": run.config.channel,
        "stages": stages,
        "missing": [node for node, outcome in outcomes.items() if outcome is None],
    }


def _outcome(store: Store, run: Run, node: str) -> dict[str, Any] | None:
    try:
        return read_outcome(store, outcome_key(run.run_id, node))
    except FileNotFoundError:
        return None


def _metrics(store: Store, outcome: dict[str, Any] | None) -> Mapping[str, Json]:
    if outcome is None:
        return {}
    try:
        return read_record(store, f"{outcome['address']}/record.json").metrics
    except FileNotFoundError:
        return {}  # cleared away since
