"""Processes that are really killed under a real scheduler: somebody is told, once, with a command that works."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("airflow", reason="Airflow is not installed: make airflow")
pytest.importorskip("apprise", reason="alerts come with the extra `airflow`: make airflow")

from infra.airflow_client import FINISHED
from tests import small_world
from tests.alerts.receiver import Receiver, receiving
from tests.end_to_end.line import World
from tests.service.real_airflow import Airflow, wait_until

pytestmark = pytest.mark.service

TRIES = 3
TASK, WORKER = "task-killed", "worker-killed"


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


@pytest.fixture(scope="module")
def airflow(receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    world = World(small_world.land(tmp_path_factory.mktemp("world")).folder)
    world.recipe.write_text(json.dumps(small_world.RECIPE))
    variables = {"AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15", "XMAS_ALERT_URLS": receiver.url}
    started = Airflow(world, tmp_path_factory.mktemp("airflow") / "home", **variables)
    yield started
    started.stop()


def test_killed_task_and_lost_worker_are_told_once_and_the_command_runs_it_again(
    airflow: Airflow, receiver: Receiver
) -> None:
    killed: set[int] = set()
    for run_id in (TASK, WORKER):
        airflow.trigger(run_id, budget="50%")
    for number in range(1, TRIES + 1):
        kill_resolve(airflow, TASK, killed, is_worker_lost=False)
        kill_resolve(airflow, WORKER, killed, is_worker_lost=number == TRIES)
    wait_until(lambda: {airflow.client.state(run_id) for run_id in (TASK, WORKER)} <= FINISHED, "the end of both")
    wait_until(lambda: callbacks_of_runs(airflow) == len((TASK, WORKER)), "the callbacks of both")
    wait_until(lambda: {run_of(alert) for alert in receiver.got} >= {TASK, WORKER}, "the alerts of both")

    commands = [alert["message"].splitlines()[-1] for alert in receiver.got]
    environment = psutil.Process(airflow.server.pid).environ()
    subprocess.run(["bash", "-c", commands[0]], env=environment, check=True, capture_output=True)
    (again,) = {run["dag_run_id"] for run in airflow.client.runs()} - {TASK, WORKER}
    airflow.finish(again)

    assert commands[0] == commands[1], "both asked for the same"
    told = {run_of(alert): alert for alert in receiver.got}
    assert len(receiver.got) == len(told) == len((TASK, WORKER)), "each is told once"
    for run_id, rule in ((TASK, "run_failed"), (WORKER, "task_failed")):
        assert told[run_id]["type"] == "failure"
        lines = told[run_id]["message"].splitlines()
        page = f"Look: {airflow.server.url}/dags/xmas_selection/runs/{run_id}/tasks/resolve?try_number={TRIES}"
        assert lines[2:6] == [f"Rule: {rule}", f"Run: {run_id}", "Stage: resolve", page]
        assert "killed" in lines[0]


def kill_resolve(airflow: Airflow, run_id: str, killed: set[int], *, is_worker_lost: bool) -> None:
    """End a task by force: alone, as for want of memory; or with what watches over it, as when its machine is gone."""

    def at_work() -> psutil.Process | None:
        found = airflow.process("xmas_job.cli", "resolve", run_id)
        return found if found and found.pid not in killed else None

    stage = wait_until(at_work, f"resolve of {run_id} to be at work")
    killed.add(stage.pid)
    task = stage.parent()
    for process in (task.parent(), task) if is_worker_lost else (task,):
        process.kill()


def callbacks_of_runs(airflow: Airflow) -> int:
    """How many failed runs Airflow has called back for."""
    logs = Path(airflow.home, "logs", "dag_processor").glob("*/*/xmas_selection.py.log")
    return sum(log.read_text().count("Executing on_failure dag callback") for log in logs)


def run_of(alert: dict[str, Any]) -> str:
    """The run that the alert's first line names."""
    (run_id,) = [run_id for run_id in (TASK, WORKER) if run_id in alert["title"]]
    return run_id
