"""Failures under Airflow as alerts: one line in the log, and a message to XMAS_ALERT_URLS, each thing once.

Owns what only Airflow knows of a failure: the task's page, and the command that starts a new run with the same conf.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import structlog
from airflow.sdk.definitions.context import Context
from launching import exit_code_of, run_id_of

from xmas_job.alerts.alert import Alert
from xmas_job.alerts.rules import failure_rule
from xmas_job.commands.tell import forget, has_told_why, tell
from xmas_job.entrypoints import load_entrypoint
from xmas_job.environment import load_environment

ENDED = "its worker was lost with it: killed, out of memory, or its machine is gone."
KILLED = "its process was killed, maybe for want of memory, or its alert did not arrive. See its log."


def alert_task(context: Context) -> None:
    """Failure callback of the tasks of a run."""
    instance = context["ti"]
    stage = str(context.get("unit") or instance.task_id.partition(".")[0])
    error = str(context.get("exception") or ENDED)
    run = run_id_of(context)
    environment, code = load_environment(), exit_code_of(error)
    alert = Alert(failure_rule(code), run, stage, error, _retry(context), instance.log_url)
    if environment.alert_urls:
        # By name: it reads records, and the DAG file is parsed all day.
        exact = load_entrypoint("xmas_job.commands.watch:rule_of_failure")
        alert = replace(alert, rule=exact(environment, run, alert.node, code))
    _tell(alert)


def alert_run(context: Context) -> None:
    """Failure callback of a run: told only if no task of it said why, as when the process of one was killed."""
    run = run_id_of(context)
    if not has_told_why(load_environment(), run):
        instance = context["ti"]  # the one that Airflow holds to be the cause
        stage = instance.task_id.partition(".")[0]
        error = f"{stage} has not told why ({context.get('reason') or 'unknown'}): {KILLED}"
        _tell(Alert("run_failed", run, stage, error, _retry(context), instance.log_url))


def alert_look(context: Context) -> None:
    """Failure callback of what repeats all day: told once under the DAG's name, until it is well again."""
    instance, dag_id = context["ti"], context["dag_run"].dag_id
    error = str(context.get("exception") or ENDED)
    retry = f"airflow dags trigger {dag_id}"
    _tell(Alert(failure_rule(exit_code_of(error)), dag_id, instance.task_id, error, retry, instance.log_url))


def all_is_well(context: Context) -> None:
    """Success callback of what repeats all day."""
    environment = load_environment()
    if environment.alert_urls:
        forget(environment, context["dag_run"].dag_id)


def _retry(context: Context) -> str:
    dag_run = context["dag_run"]
    return f"airflow dags trigger {dag_run.dag_id} --conf {shlex.quote(json.dumps(dag_run.conf or {}))}"


def _tell(alert: Alert) -> None:
    structlog.get_logger("xmas_job").error(alert.title, error=alert.error, retry=alert.retry)
    tell(load_environment(), alert)
