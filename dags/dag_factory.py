"""The line as Airflow tasks: a group a stage, the same whatever a run asks for.

Owns what Airflow has to know: order, fan-out, retries, limits, outcomes. Computes nothing: tasks start `xmas-job`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from airflow.sdk import TaskGroup, TriggerRule, get_current_context, task
from airflow.sdk.definitions.xcom_arg import XComArg
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from assets import SELECTIONS
from launching import Launcher, Unit, call, run_id_of, unit_name

from xmas_job.entrypoints import load_entrypoint
from xmas_job.environment import load_environment
from xmas_job.pipeline import STAGES, StageSpec

NUM_RETRIES = 2
RETRY_DELAY = timedelta(seconds=15)
LAUNCHERS = {
    "local": "launch_local:local",
    "docker": "launch_docker:docker",
    "kubernetes": "launch_kubernetes:kubernetes",
}
"""By name of module and function: a launcher's provider is wanted only where it is used."""
ANNOUNCED = "publish"
"""The stage after which a selection is there for others."""
BUDGET = r"^(?=.*[1-9])((0*(100(\.0+)?|\d{1,2}(\.\d+)?)|\.\d+)%|0*\.\d+|\d+)$"
"""A share above 0 and up to 100 %, a fraction below 1, or a count."""
LOOK_TIMEOUT = timedelta(minutes=30)
"""Of the tasks that look and start no stage. They list landed data and digest models, which may be large."""


def add_line(request: Callable[[Mapping[str, Any]], list[str]]) -> None:
    """Add the whole line to the DAG being declared.

    Args:
        request: the DAG's params -> arguments of `xmas-job resolve`.
    """
    launcher = load_entrypoint(LAUNCHERS[load_environment().launcher])
    before = [_resolve(request)]
    for spec in STAGES:
        before = _add_stage(spec, before, launcher)


def _resolve(request: Callable[[Mapping[str, Any]], list[str]]) -> XComArg:
    @task(task_id="resolve", execution_timeout=LOOK_TIMEOUT)
    def resolve() -> None:
        """Fix versions and models by content, once for the whole run."""
        context = get_current_context()
        call("resolve", *request(context["params"]), "--run-id", run_id_of(context))

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
            raise AirflowException(f"still missing: {', '.join(map(unit_name, missing))}")

    with TaskGroup(spec.name):
        units = reuse()
        before >> units
        tasks = [units, launcher(spec, units)]
        if spec.partitioned_by:
            tasks.append(seal())
            tasks[1] >> tasks[2]
        if spec.name == ANNOUNCED:
            tasks >> _announce()
    return tasks


def _announce() -> XComArg:
    @task(
        task_id="announce",
        execution_timeout=LOOK_TIMEOUT,
        trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS,
        outlets=[SELECTIONS],
    )
    def announce() -> str:
        """Tell the DAGs that follow selections which one this run came to."""
        context = get_current_context()
        shown = call("show", run_id_of(context), "--json")
        uri = str(shown["manifest"]).rpartition("/")[0]
        known = {name: shown[name] for name in ("selection_id", "num_examples", "manifest", "channel", "run")}
        context["outlet_events"][SELECTIONS].extra = {**known, "uri": uri}
        return uri

    return announce()


def _reuse(spec: StageSpec) -> list[Unit]:
    units: list[Unit] = call("reuse", spec.name, "--run", run_id_of(get_current_context()))["to_build"]
    return units


def known_params(params: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Refuse a key that is none of a DAG's params; Airflow itself lets a misspelt one pass.

    Raises:
        AirflowFailException: naming it.
    """
    if unknown := sorted(set(params) - set(known)):
        raise AirflowFailException(f"unknown params {unknown}. Known: {', '.join(known)}.")
