"""Looking at the runs of a store, and telling what the alert rules say; from the store alone.

Judges heartbeats by the store's own clock: the age of one is the time between two writes to the same store.
"""

from __future__ import annotations

from collections.abc import Iterator

from xmas_job.alerts.alert import Alert
from xmas_job.alerts.rules import RULES, failure_rule, stale_heartbeat
from xmas_job.commands.resolve import read_run, run_ids
from xmas_job.commands.status import held_leases
from xmas_job.commands.tell import out_of_the_way, tell
from xmas_job.environment import AlertSettings, Environment, load_settings
from xmas_job.errors import BadDataError, MissingInputError, UsageError, XmasError
from xmas_job.fingerprint import Json
from xmas_job.logs import get_logger
from xmas_job.pipeline import Node
from xmas_job.runner import Run, Runner
from xmas_job.storage.journal import outcomes, rerun_command
from xmas_job.storage.lease import lease_key
from xmas_job.storage.roots import open_store
from xmas_job.storage.store import Store

logger = get_logger(__name__)

CLOCK = "alerts/clock"
"""Written at every look, so that the store says what time it is."""


def watch(environment: Environment, last: int) -> dict[str, Json]:
    """Look at the `last` runs; what the rules say of them, and whether it was told now."""
    store = open_store(environment.store_root)
    found: list[Json] = []
    looked = run_ids(store)[:last]
    for run_id in looked:
        try:
            alerts = alerts_of_run(environment, read_run(store, run_id))
        except (UsageError, BadDataError) as error:  # of another version, or damaged: the others are looked at
            logger.warning("a run cannot be looked at", run=run_id, error=str(error))
            continue
        found += [_show(alert, is_told=tell(environment, alert)) for alert in alerts]
    return {"store": store.uri, "num_runs": len(looked), "alerts": found}


def _show(alert: Alert, *, is_told: bool) -> dict[str, Json]:
    return {"rule": alert.rule, "run": alert.run, "stage": alert.stage, "error": alert.error, "told": is_told}


def alerts_of_run(environment: Environment, run: Run) -> list[Alert]:
    """What the rules say of a run, told or not."""
    store, limits = open_store(environment.store_root), load_settings(AlertSettings)
    runner = Runner(store, environment, run)
    alerts = [alert for node in run.nodes.values() for alert in _measured(runner, node, limits)]
    left = set(run.nodes) - {str(outcome["stage"]) for outcome in outcomes(store, run.run_id)}
    if left:
        now = _now(store)
        alerts += [
            alert for node in run.nodes.values() if node.id in left for alert in _stale(runner, node, limits, now)
        ]
    return alerts


def tell_of_failure(environment: Environment, run: Run, stage: str, error: XmasError | OSError) -> None:
    """Tell that a stage of a run without a scheduler has failed.

    Its report, the last stage, is not there to link to. The store may be what failed, so little is asked of it.
    """
    if not environment.alert_urls:
        return
    with out_of_the_way():
        store = open_store(environment.store_root)
        code = error.exit_code if isinstance(error, XmasError) else XmasError.exit_code
        rule = rule_of_failure(environment, run.run_id, stage, code)
        tell(environment, Alert(rule, run.run_id, stage, str(error), rerun_command(store, run.run_id)))


def tell_of_run(environment: Environment, run: Run) -> None:
    """Tell what the rules say of a run."""
    if not environment.alert_urls:  # and leave the store alone
        return
    with out_of_the_way():
        for alert in alerts_of_run(environment, run):
            tell(environment, alert)


def rule_of_failure(environment: Environment, run_id: str, stage: str, exit_code: int) -> str:
    """The rule under which a stage's failure is told: the exact one, where the store knows it."""
    if (stage, exit_code) == ("pool", UsageError.exit_code):
        with out_of_the_way():
            store = open_store(environment.store_root)
            runner = Runner(store, environment, read_run(store, run_id))
            rules = {alert.rule for alert in _measured(runner, runner.run.nodes[stage], load_settings(AlertSettings))}
            if "budget_unreachable" in rules:
                return "budget_unreachable"
    return failure_rule(exit_code)


def report_link(store: Store, run_id: str) -> str:
    """URI of the run's report, "" while there is none."""
    key = f"runs/{run_id}/report/index.html"
    return f"{store.uri}/{key}" if store.exists(key) else ""


def _measured(runner: Runner, node: Node, limits: AlertSettings) -> Iterator[Alert]:
    rules = [rule for rule in RULES if rule.stage == node.spec.name]
    artifact = runner.find(node.id) if rules else None
    if artifact is None:
        return
    for rule in rules:
        if words := rule.says(artifact.record.metrics, runner.run.config, limits):
            run_id, store = runner.run.run_id, runner.store
            link = report_link(store, run_id)
            yield Alert(rule.name, run_id, node.id, words, rerun_command(store, run_id), link)


def _stale(runner: Runner, node: Node, limits: AlertSettings, now: float) -> Iterator[Alert]:
    """Of the leases that this run holds on the node."""
    run_id, store = runner.run.run_id, runner.store
    try:
        leases = held_leases(runner, node)
    except MissingInputError:
        return
    for prefix, lease in leases:
        written = store.written_at(lease_key(prefix, lease.number))
        if lease.work.get("run") != run_id or written is None:
            continue
        if words := stale_heartbeat(now - written, limits):
            partition = lease.work.get("partition")
            stage = node.id if partition is None else f"{node.id} partition {partition}"
            where = f"{stage}, attempt {lease.number} on {lease.owner.host} pid {lease.owner.pid}: {words}"
            retry = f"xmas-job stage {node.id} --run {run_id}"
            yield Alert("stale_heartbeat", run_id, stage, where, retry, report_link(store, run_id))


def _now(store: Store) -> float:
    store.put(CLOCK, b"")
    now = store.written_at(CLOCK)
    assert now is not None
    return now
