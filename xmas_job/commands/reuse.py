"""The cheap look before a launcher starts anything: what of a stage is there, and what is left to build."""

from __future__ import annotations

from xmas_job.commands.presence import enter
from xmas_job.commands.resolve import read_run
from xmas_job.environment import Environment
from xmas_job.errors import UsageError
from xmas_job.fingerprint import Json
from xmas_job.pipeline import STAGES
from xmas_job.runner import Runner
from xmas_job.storage.roots import open_store


def reuse(environment: Environment, run_id: str, stage: str) -> dict[str, Json]:
    """Note in the run what is there of the stage, sealing what only lacks its seal.

    Returns:
        "reused", the nodes that are there; "to_build", what is not: {"stage": node} or {"stage": node, "partition": i}.

    Raises:
        UsageError: if the line has no such stage; MissingInputError, if its inputs are not there.
        XmasError: if what is there does not fit the run, e.g. a budget above the pool.
    """
    if stage not in {spec.name for spec in STAGES}:
        raise UsageError(
            f"the line has no stage {stage!r}.", f"It has: {', '.join(spec.name for spec in STAGES)}; not their keys."
        )
    store = open_store(environment.store_root)
    run = read_run(store, run_id)
    enter(store, run_id)
    runner = Runner(store, environment, run)
    nodes = [node for node in runner.run.nodes.values() if node.spec.name == stage]
    missing = {node.id: _missing(runner, node.id) for node in nodes}
    reused: list[Json] = [runner.run_stage(node_id).node_id for node_id, units in missing.items() if not units]
    return {"stage": stage, "reused": reused, "to_build": [unit for units in missing.values() for unit in units]}


def _missing(runner: Runner, node_id: str) -> list[Json]:
    node = runner.run.nodes[node_id]
    runner.address(node)  # its inputs are there, or this raises
    if runner.find(node_id):
        return []
    if not node.spec.partitioned_by:
        return [{"stage": node_id}]
    return [{"stage": node_id, "partition": partition} for partition in runner.missing_partitions(node)]
