"""The line as Airflow tasks: a group a stage, the same whatever a run asks for.

Owns what Airflow has to know: order, fan-out, retries, limits, outcomes. Computes nothing: tasks start `xmas-job`.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import structlog
from airflow.sdk import TaskGroup, TriggerRule, get_current_context, task
from airflow.sdk.definitions.context import Context
from airflow.sdk.definitions.xcom_arg import XComArg
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from xmas_job.alerts.failure import Failure, send
from xmas_job.commands.process import run_process
from xmas_job.environment import load_environment
from xmas_job.errors import BadDataError, NothingToDoError, QualityGateError, UsageError, XmasError
from xmas_job.pipeline import STAGES, StageSpec

Unit = Mapping[str, Any]
"""One thing to build: {"stage": node} or {"stage": node, "partition": i}."""
Launcher = Callable[[StageSpec, XComArg], XComArg]
"""(spec, units) -> the task mapped over the units; it gives the URIs of what it built."""

OUTCOMES: Mapping[type[XmasError], type[AirflowException]] = {
    UsageError: AirflowFailException,
    BadDataError: AirflowFailException,
    QualityGateError: AirflowFailException,
    NothingToDoError: AirflowSkipException,
}
"""What no retry can mend fails at once, and nothing to do is a skip. Everything else is tried again."""

NUM_RETRIES = 2
RETRY_DELAY = timedelta(seconds=15)
LOOK_TIMEOUT = timedelta(minutes=30)
"""Of the tasks that look and start no stage. They list landed data and digest models, which may be large."""


def add_line(request: Callable[[Mapping[str, Any]], list[str]]) -> None:
    """Add the whole line to the DAG being declared.

    Args:
        request: the DAG's params -> arguments of `xmas-job resolve`.
    """
    launcher = LAUNCHERS[load_environment().launcher]
    before = [_resolve(request)]
    for spec in STAGES:
        before = _add_stage(spec, before, launcher)


def local(spec: StageSpec, units: XComArg) -> XComArg:
    """Launcher: a process on the machine of the Airflow worker, which ends when the task ends."""

    @task(
        task_id="build",
        map_index_template="{{ unit }}",
        execution_timeout=timedelta(hours=spec.resources.hours),
        pool=load_environment().gpu_pool if spec.resources.gpus else "default_pool",
        pool_slots=max(spec.resources.gpus, 1),
    )
    def build(unit: Unit) -> str:
        context = get_current_context()
        context["unit"] = _name(unit)  # type: ignore[typeddict-unknown-key]  # read by map_index_template
        partition = ["--partition", str(unit["partition"])] if "partition" in unit else []
        artifact: str = _call("stage", unit["stage"], "--run", run_id_of(context), *partition)["artifact"]
        return artifact

    return build.expand(unit=units)


LAUNCHERS: Mapping[str, Launcher] = {"local": local}


def _resolve(request: Callable[[Mapping[str, Any]], list[str]]) -> XComArg:
    @task(task_id="resolve", execution_timeout=LOOK_TIMEOUT)
    def resolve() -> None:
        """Fix versions and models by content, once for the whole run."""
        context = get_current_context()
        _call("resolve", *request(context["params"]), "--run-id", run_id_of(context))

    return resolve()


def _add_stage(spec: StageSpec, before: list[XComArg], launcher: Launcher) -> list[XComArg]:
    """The stage's tasks: reuse -> build, mapped over what is left -> seal, if it is partitioned."""

    # With `build` skipped, because all was there, the line goes on; with all skipped before, there is nothing to do.
    @task(task_id="reuse", execution_timeout=LOOK_TIMEOUT, trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS)
    def reuse() -> list[Unit]:
        """Take what is there into the run, without a GPU; the rest is to be built."""
        return _reuse(spec)

    @task(task_id="seal", execution_timeout=LOOK_TIMEOUT)
    def seal() -> None:
        """Make one artifact of all partitions."""
        if missing := _reuse(spec):
            raise AirflowException(f"still missing: {', '.join(map(_name, missing))}")

    with TaskGroup(spec.name):
        units = reuse()
        before >> units
        tasks = [units, launcher(spec, units)]
        if spec.partitioned_by:
            tasks.append(seal())
            tasks[1] >> tasks[2]
    return tasks


def _reuse(spec: StageSpec) -> list[Unit]:
    units: list[Unit] = _call("reuse", spec.name, "--run", run_id_of(get_current_context()))["to_build"]
    return units


def run_id_of(context: Context) -> str:
    """Our id of an Airflow run: its own, but for what is no part of a key."""
    return re.sub(r"[^A-Za-z0-9_.+-]", "-", str(context["dag_run"].run_id))


def outcome_of(error: XmasError) -> AirflowException:
    """An error of ours as the exception with which Airflow does the right thing."""
    kind = next((outcome for ours, outcome in OUTCOMES.items() if isinstance(error, ours)), AirflowException)
    return kind(f"{error} (exit code {error.exit_code})")


def alert(context: Context) -> None:
    """Failure callback: one line in the log, and a message to XMAS_ALERT_URLS."""
    log = structlog.get_logger("xmas_job")
    dag_run, instance = context["dag_run"], context["ti"]
    request = shlex.quote(json.dumps(dag_run.conf or {}))
    failure = Failure(
        run=run_id_of(context),
        stage=str(context.get("unit", instance.task_id)),
        error=str(context.get("exception") or "its process was ended from outside."),
        retry=f"airflow dags trigger {dag_run.dag_id} --conf {request}",
    )
    log.error(failure.title, error=failure.error, retry=failure.retry)
    urls = load_environment().alert_urls
    if urls:
        try:
            send(failure, urls)
        except XmasError as error:
            # The stage's own error matters more, so this one only leaves a line.
            log.error("the alert did not arrive", error=str(error))  # noqa: TRY400 (expected: no trace)


def _call(*arguments: str) -> dict[str, Any]:
    """Run `xmas-job ARGUMENTS`; its events become lines of the task's log."""
    log = structlog.get_logger("xmas_job")

    def show(event: dict[str, Any]) -> None:
        known = {"event", "level", "timestamp"}
        details = {key: value for key, value in event.items() if key not in known}
        getattr(log, str(event.get("level", "info")))(str(event.get("event")), **details)

    log.info(shlex.join(["xmas-job", *arguments]))
    try:
        return dict(run_process(arguments, show))
    except XmasError as error:
        raise outcome_of(error) from None


def _name(unit: Unit) -> str:
    return f"{unit['stage']} partition {unit['partition']}" if "partition" in unit else str(unit["stage"])
