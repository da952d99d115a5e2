"""What launchers call: one stage of a started run."""

from __future__ import annotations

from xmas_job.commands.presence import enter
from xmas_job.commands.resolve import read_run
from xmas_job.environment import Environment
from xmas_job.errors import UsageError
from xmas_job.fingerprint import Json
from xmas_job.runner import Runner
from xmas_job.storage.roots import open_store


def run_stage(environment: Environment, run_id: str, node_id: str, partition: int | None) -> dict[str, Json]:
    """Build or find one stage's artifact; a short JSON pointer to it.

    Raises:
        UsageError: if the run has no such stage, or the stage no such partition.
        XmasError: whatever the stage raises.
    """
    store = open_store(environment.store_root)
    run = read_run(store, run_id)
    enter(store, run_id)
    runner = Runner(store, environment, run)
    if node_id not in runner.run.nodes:
        raise UsageError(f"run {run_id} has no stage {node_id!r}.", f"It has: {', '.join(runner.run.nodes)}.")
    node = runner.run.nodes[node_id]
    num_partitions = runner.num_partitions(node) if node.spec.partitioned_by else 0
    if partition is not None and partition >= num_partitions:
        raise UsageError(f"stage {node_id} has no partition {partition}.", f"It has {num_partitions}, counted from 0.")
    result = runner.assist(node_id) if environment.node_rank else runner.run_stage(node_id, partition)
    return {
        "stage": result.node_id,
        "status": result.status,
        "seconds": round(result.seconds, 3),
        "digest": result.artifact.record.digest,
        "artifact": f"{store.uri}/{result.artifact.address}",
    }
