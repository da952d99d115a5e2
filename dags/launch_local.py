"""Launcher `local`: a process on the machine of the Airflow worker, which ends when the task ends."""

from __future__ import annotations

from airflow.sdk import get_current_context, task
from airflow.sdk.definitions.xcom_arg import XComArg
from launching import Unit, call, start_unit, task_settings

from xmas_job.pipeline import StageSpec


def local(spec: StageSpec, units: XComArg) -> XComArg:
    """The task mapped over the units."""
    units_built: XComArg = task(**task_settings(spec))(build).expand(unit=units)
    return units_built


def build(unit: Unit) -> str:
    """Build the unit; the URI of its artifact."""
    artifact: str = call(*start_unit(unit, get_current_context()))["artifact"]
    return artifact
