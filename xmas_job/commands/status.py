"""What runs, where, how far, and what failed last: from the store alone.

Compares no clocks of two machines: a heartbeat is alive when it is seen to move between two looks.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from xmas_job.commands.resolve import latest_run_id, read_run, run_ids
from xmas_job.environment import Environment
from xmas_job.errors import MissingInputError, UsageError
from xmas_job.fingerprint import Json
from xmas_job.pipeline import Node
from xmas_job.runner import Run, Runner
from xmas_job.storage.journal import failures, outcomes
from xmas_job.storage.lease import LeaseState, newest_lease
from xmas_job.storage.owner import this_process
from xmas_job.storage.roots import open_store

LATEST = "latest"
BEATS_TO_WAIT = 1.5


def status_of_runs(environment: Environment, last: int) -> dict[str, Json]:
    """The last runs, each with its counts; unfinished ones with what is at work and what failed last."""
    store = open_store(environment.store_root)
    runs: list[Json] = []
    for run_id in run_ids(store)[:last]:
        try:
            run = read_run(store, run_id)
        except UsageError as error:
            runs.append({"run": run_id, "state": "unreadable", "error": error.message})
            continue
        if {outcome["stage"] for outcome in outcomes(store, run_id)} >= set(run.nodes):
            num_stages = len(run.nodes)
            runs.append(
                {"run": run_id, "state": "done", "created_at": run.created_at, "done": [num_stages, num_stages]}
            )
        else:
            looked = _look(Runner(store, environment, run))
            runs.append({key: looked[key] for key in ("run", "state", "created_at", "done", "at_work", "failed")})
    return {"store": store.uri, "runs": runs}


def status_of_run(environment: Environment, run_id: str, *, watch: bool) -> dict[str, Json]:
    """Every stage of a run: done, at work (owner, attempt, progress, heartbeat), died, failed, waiting.

    Args:
        environment: names the store.
        run_id: or `latest`.
        watch: look a second time, later than the next heartbeat, at leases whose owner this machine cannot judge.
    """
    store = open_store(environment.store_root)
    run: Run = read_run(store, latest_run_id(store) if run_id == LATEST else run_id)
    looked = _look(Runner(store, environment, run))
    seconds = max((lease["interval_seconds"] * BEATS_TO_WAIT for lease in _unjudged(looked)), default=0.0)
    if watch and seconds:
        before = {_name(lease): lease["beat"] for lease in _unjudged(looked)}
        time.sleep(seconds)
        looked = _look(Runner(store, environment, run))
        for lease in _unjudged(looked):
            if before.get(_name(lease)) is not None:
                moved = before[_name(lease)] != lease["beat"]
                lease["heartbeat"] = "moves" if moved else f"stood still for {seconds:.0f} s"
    return {"store": store.uri, **looked}


def _unjudged(looked: Mapping[str, Any]) -> list[dict[str, Any]]:
    leases = [lease for stage in looked["stages"] for lease in stage.get("leases", [])]
    return [lease for lease in leases if lease["heartbeat"] == "not judged"]


def _name(lease: Mapping[str, Any]) -> tuple[Any, ...]:
    return lease["prefix"], lease["attempt"]


def _look(runner: Runner) -> dict[str, Any]:
    run, store = runner.run, runner.store
    done = {outcome["stage"]: outcome for outcome in outcomes(store, run.run_id)}
    failed = {failure["stage"]: failure for failure in failures(store, run.run_id)}
    stages = []
    for node in run.nodes.values():
        if node.id in done:
            outcome = done[node.id]
            stages.append({"stage": node.id, "state": "done", **{key: outcome[key] for key in ("status", "seconds")}})
        else:
            stages.append(_unfinished(runner, node, failed.get(node.id)))
    left = [stage for stage in stages if stage["state"] != "done"]
    at_work = [stage["stage"] for stage in left if stage["state"] == "at work"]
    last = max(
        (stage["failure"] for stage in left if "failure" in stage), key=lambda found: found["when"], default=None
    )
    return {
        "run": run.run_id,
        "created_at": run.created_at,
        "state": _state(left, at_work),
        "done": [len(stages) - len(left), len(stages)],
        "at_work": at_work,
        "failed": last,
        "stages": stages,
    }


def _state(left: list[dict[str, Any]], at_work: list[str]) -> str:
    if not left:
        return "done"
    if at_work:
        return "at work"
    found = {stage["state"] for stage in left}
    return next((state for state in ("failed", "died") if state in found), "not at work")


def _unfinished(runner: Runner, node: Node, failure: Mapping[str, Any] | None) -> dict[str, Any]:
    found: dict[str, Any] = {"stage": node.id, "state": "waiting"}
    try:
        held = [_lease(prefix, lease) for prefix, lease in held_leases(runner, node)]
    except MissingInputError:
        return {**found, **({"failure": failure, "state": "failed"} if failure else {})}
    if node.spec.partitioned_by:
        total = runner.num_partitions(node)
        found["partitions"] = [total - len(runner.missing_partitions(node)), total]
    if held:
        alive = any(lease["heartbeat"] != "owner is dead" for lease in held)
        found |= {"leases": held, "state": "at work" if alive else "died"}
        if not alive:
            found["retry"] = f"xmas-job stage {node.id} --run {runner.run.run_id}"
    if failure:
        found["failure"] = failure
        found["state"] = found["state"] if held else "failed"
    return found


def held_leases(runner: Runner, node: Node) -> list[tuple[str, LeaseState]]:
    """What of the node is being built, by whom: (address, lease), for leases that were not given back.

    Raises:
        MissingInputError: if an input is not built, so that the node has no address yet.
    """
    prefixes = [runner.address(node)]
    if node.spec.partitioned_by:
        folder = f"{prefixes[0]}/partitions"
        begun = {int(name) for name in runner.store.folders(folder)}  # only what somebody began has a folder
        prefixes = [f"{folder}/{number:06d}" for number in runner.missing_partitions(node) if number in begun]
    leases = [(prefix, lease) for prefix in prefixes if (lease := newest_lease(runner.store, prefix))]
    return [(prefix, lease) for prefix, lease in leases if not lease.released]


def _lease(prefix: str, lease: LeaseState) -> dict[str, Any]:
    judged = lease.owner.process_table == this_process().process_table
    here = "owner is dead" if lease.owner.is_dead() else "owner lives on this machine"
    return {
        "prefix": prefix,
        "attempt": lease.number,
        "host": lease.owner.host,
        "pid": lease.owner.pid,
        "run": lease.work.get("run"),
        "partition": lease.work.get("partition"),
        "beat": lease.beat,
        "interval_seconds": lease.interval_seconds,
        "progress": list(lease.progress) if lease.progress else None,
        "written_by_its_clock": lease.written,
        "heartbeat": here if judged else "not judged",
    }
