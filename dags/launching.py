"""What every launcher shares: the unit that a task builds, its limits, its words and its outcome for Airflow."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import structlog
from airflow.sdk.definitions.context import Context
from airflow.sdk.definitions.xcom_arg import XComArg
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from xmas_job.commands.process import run_process
from xmas_job.environment import load_environment
from xmas_job.errors import BadDataError, NothingToDoError, QualityGateError, UsageError, XmasError
from xmas_job.pipeline import StageSpec

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

NOT_FOR_STAGES = re.compile(
    r"XMAS_(SCRATCH|LAUNCHER|GPU_POOL|MAX_GPUS|ALERT_.*|LANDING_.*|GIT_SHA|DOCKER_.*|KUBERNETES_.*)|"
    r"AWS_(PROFILE|ROLE_.*|.*_FILE|.*_BUNDLE)"
)
"""Variables that are the launcher's own business, or the image's; and the names of files that a container lacks, with
the role that goes with one of them."""


def task_settings(spec: StageSpec) -> dict[str, Any]:
    """What Airflow has to know of a stage's task, whatever launches it."""
    gpus = num_gpus(spec)
    return {
        "task_id": "build",
        "map_index_template": "{{ unit }}",
        "execution_timeout": timedelta(hours=spec.resources.hours),
        "pool": load_environment().gpu_pool if gpus else "default_pool",
        "pool_slots": max(gpus, 1),
    }


def num_gpus(spec: StageSpec) -> int:
    """GPUs that one process of the stage gets."""
    most = load_environment().max_gpus
    return spec.resources.gpus if most is None else min(spec.resources.gpus, most)


def start_unit(unit: Unit, context: Context) -> list[str]:
    """Name the unit in the context, where alert and UI look for it; the arguments of `xmas-job` that build it."""
    context["unit"] = unit_name(unit)  # type: ignore[typeddict-unknown-key]  # read by map_index_template
    partition = ["--partition", str(unit["partition"])] if "partition" in unit else []
    return ["stage", unit["stage"], "--run", run_id_of(context), *partition]


def unit_name(unit: Unit) -> str:
    """The unit in words."""
    return f"{unit['stage']} partition {unit['partition']}" if "partition" in unit else str(unit["stage"])


def run_id_of(context: Context) -> str:
    """Our id of an Airflow run: its own, but for what is no part of a key."""
    return re.sub(r"[^A-Za-z0-9_.+-]", "-", str(context["dag_run"].run_id))


def stage_variables() -> dict[str, str]:
    """Variables of this worker that a stage in a container needs: where the store is, and the right to it."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("XMAS_", "AWS_")) and not NOT_FOR_STAGES.fullmatch(name)
    }


def outcome_of(error: XmasError) -> AirflowException:
    """An error of ours as the exception with which Airflow does the right thing."""
    kind = next((outcome for ours, outcome in OUTCOMES.items() if isinstance(error, ours)), AirflowException)
    return kind(f"{error} (exit code {error.exit_code})")


def exit_code_of(outcome: str) -> int:
    """The exit code in the words of an outcome, 1 where it has none: what came from Airflow itself."""
    found = re.search(r"\(exit code (\d+)\)$", outcome)
    return int(found[1]) if found else XmasError.exit_code


def show(event: Mapping[str, Any]) -> None:
    """Make a log event of `xmas-job` a line of the task's log."""
    known = {"event", "level", "timestamp"}
    details = {key: value for key, value in event.items() if key not in known}
    getattr(structlog.get_logger("xmas_job"), str(event.get("level", "info")))(str(event.get("event")), **details)


def call(*arguments: str) -> dict[str, Any]:
    """Run `xmas-job ARGUMENTS` on this worker, its events as lines of the task's log; what it printed.

    Raises:
        AirflowException: what Airflow is to do about its error.
    """
    structlog.get_logger("xmas_job").info(shlex.join(["xmas-job", *arguments]))
    try:
        return dict(run_process(arguments, show))
    except XmasError as error:
        raise outcome_of(error) from None
