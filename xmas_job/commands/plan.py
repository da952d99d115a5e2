"""What a run would do: which stages are there already, and which have to be built."""

from __future__ import annotations

from xmas_job.commands.estimate import estimate
from xmas_job.commands.resolve import new_run_id, resolve_run
from xmas_job.config import RunConfig
from xmas_job.entrypoints import load_entrypoint
from xmas_job.environment import Environment
from xmas_job.errors import MissingInputError
from xmas_job.fingerprint import Json
from xmas_job.pipeline import Node
from xmas_job.runner import Runner
from xmas_job.stages.costs import shown_costs
from xmas_job.storage.roots import open_store


def plan_run(environment: Environment, config: RunConfig) -> dict[str, Json]:
    """Every stage with its state: HIT, PARTIAL, MISS, or UNKNOWN until its inputs are built. Writes nothing.

    Raises:
        UsageError: if the pool is there and cannot serve the request.
    """
    store = open_store(environment.store_root)
    runner = Runner(store, environment, resolve_run(config, store, new_run_id()))
    pool = runner.find("pool")
    if pool:
        load_entrypoint("xmas_job.stages.pool:check_request")(pool, runner.run, "")
    stages: list[Json] = [
        {**_state(runner, node), "estimate": estimate(runner, node, environment)} for node in runner.run.nodes.values()
    ]
    return {"store": store.uri, "config": runner.run.config.model_dump(mode="json"), "stages": stages}


def _state(runner: Runner, node: Node) -> dict[str, Json]:
    found = runner.find(node.id)
    if found:
        return {
            "stage": node.id,
            "state": "HIT",
            "artifact": found.address,
            "seconds_when_built": found.record.provenance.get("seconds"),
            "cost_when_built": shown_costs(found.record.metrics),
        }
    try:
        address = runner.address(node)
    except MissingInputError:
        return {"stage": node.id, "state": "UNKNOWN", "artifact": None}
    if node.spec.partitioned_by:
        total = runner.num_partitions(node)
        num_done = total - len(runner.missing_partitions(node))
        state = "PARTIAL" if num_done else "MISS"
        return {"stage": node.id, "state": state, "artifact": address, "partitions": [num_done, total]}
    return {"stage": node.id, "state": "MISS", "artifact": address}
