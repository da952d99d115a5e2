"""A real Airflow with a scheduler: runs through its REST API, and processes killed in mid-run."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.airflow_client import FINISHED, Client, RefusedError
from infra.airflow_server import Server, start
from tests.end_to_end.line import RECIPE, World, land

pytestmark = pytest.mark.service

DEADLINE_SECONDS = 300.0
STAGES_OF_ONE_PIECE = ("ingest", "pool", "train_proxy", "cluster", "select", "publish", "report")


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + DEADLINE_SECONDS
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {DEADLINE_SECONDS:.0f} s in vain for {what}"
        time.sleep(0.05)
    return found


class Airflow:
    """A server on a landed world, as a user meets it."""

    def __init__(self, world: World, home: Path) -> None:
        self.world, self.home = world, home
        self.server: Server
        self.client: Client
        self.start()

    def start(self) -> None:
        environment = self.world.environment()
        self.server = start(self.home, {name: environment[name] for name in environment if name.startswith("XMAS_")})
        self.client = Client(self.server.url, self.server.password, "xmas_selection")
        wait_until(self.client.is_ready, f"Airflow, see {self.server.log}")

    def stop(self) -> None:
        self.server.stop()
        assert processes_of(self.home) == []

    def trigger(self, run_id: str, **conf: Any) -> str:
        self.client.trigger(run_id, {"recipe": str(self.world.recipe), "budget": "20%", "train_target": False, **conf})
        return run_id

    def finish(self, run_id: str) -> list[dict[str, Any]]:
        """Wait for the end of the run, which must be a good one; its tasks."""
        wait_until(lambda: self.client.state(run_id) in FINISHED, f"the end of {run_id}")
        tasks = self.client.tasks(run_id)
        failed = [[task["task_id"], *self.client.log(run_id, task)[-5:]] for task in tasks if task["state"] == "failed"]
        assert self.client.state(run_id) == "success", failed
        return tasks

    def statuses(self, run_id: str) -> dict[str, str]:
        shown = json.loads(self.world.call("show", run_id, "--json").stdout)
        return {stage["stage"]: stage["status"] for stage in shown["stages"]}

    def process(self, *words: str) -> psutil.Process | None:
        """The process of the server whose command has these words."""
        for process in self.server.processes():
            try:
                command = " ".join(process.cmdline())
            except psutil.NoSuchProcess:
                continue
            if all(word in command for word in words):
                return process
        return None

    def stage_at_work(self, stage: str) -> psutil.Process:
        """The process of the stage, once it has written something."""
        attempts = self.world.store / "artifacts" / stage
        wait_until(lambda: any(path.is_file() for path in attempts.glob("**/attempts/**/*")), f"{stage} to write")
        process = self.process("xmas_job.cli", "stage", stage)
        assert process is not None
        return process


def processes_of(home: Path) -> list[str]:
    """Everything on this machine that was started with this AIRFLOW_HOME."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("AIRFLOW_HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    world = land(tmp_path_factory.mktemp("landed") / "world", RECIPE)
    started = Airflow(world, tmp_path_factory.mktemp("airflow") / "home")
    yield started
    started.stop()


@pytest.fixture(scope="module")
def expected(airflow: Airflow, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed run without any Airflow publishes."""
    world = airflow.world.copy(tmp_path_factory.mktemp("undisturbed") / "world")
    world.run()
    return world.published()


@pytest.fixture
def fresh(airflow: Airflow, expected: dict[str, bytes]) -> Airflow:
    """Landed, and nothing built."""
    for folder in ("artifacts", "selections", "channels", "runs"):
        shutil.rmtree(airflow.world.store / folder, ignore_errors=True)
    return airflow


def test_wrong_budget_is_refused_with_the_words_of_the_schema(airflow: Airflow) -> None:
    with pytest.raises(RefusedError, match=r"budget.*'0%' does not match"):
        airflow.trigger("refused", budget="0%")


def test_run_publishes_the_bytes_of_a_run_without_airflow(fresh: Airflow, expected: dict[str, bytes]) -> None:
    tasks = fresh.finish(fresh.trigger("first"))
    assert fresh.world.published() == expected
    assert set(fresh.statuses("first").values()) == {"built"}
    assert [task["rendered_map_index"] for task in tasks if task["task_id"] == "extract.build"] == [
        f"extract:demo@v1 partition {partition}" for partition in range(3)
    ]


def test_cancelled_run_stops_what_is_at_work_and_starts_nothing_more(fresh: Airflow) -> None:
    run = fresh.trigger("cancelled")
    fresh.stage_at_work("train_proxy")
    fresh.client.cancel(run)
    wait_until(lambda: {task["state"] for task in fresh.client.tasks(run)} <= FINISHED, "its tasks to end")
    wait_until(lambda: fresh.process("xmas_job.cli", "stage") is None, "its stage to end")
    assert fresh.client.state(run) == "failed"
    assert not (fresh.world.store / "artifacts" / "cluster").exists()


def test_killed_task_is_tried_again_and_ends_with_the_same_bytes(fresh: Airflow, expected: dict[str, bytes]) -> None:
    run = fresh.trigger("killed")
    stage = fresh.stage_at_work("train_proxy")
    task = stage.parent()
    assert task is not None
    task.kill()
    wait_until(lambda: not stage.is_running() or stage.status() == psutil.STATUS_ZOMBIE, "the stage to end with it")
    (build,) = [task for task in fresh.finish(run) if task["task_id"] == "train_proxy.build"]
    assert build["try_number"] == 2
    assert fresh.world.published() == expected


def test_killed_scheduler_and_a_new_airflow_end_with_the_same_bytes(fresh: Airflow, expected: dict[str, bytes]) -> None:
    run = fresh.trigger("unscheduled")
    fresh.stage_at_work("train_proxy")
    scheduler = fresh.process("airflow", "scheduler")
    assert scheduler is not None
    scheduler.kill()
    wait_until(lambda: not fresh.client.is_healthy(), "Airflow to notice")
    fresh.stop()
    fresh.start()
    fresh.finish(run)
    assert fresh.world.published() == expected


def test_two_runs_at_once_build_everything_once(fresh: Airflow, expected: dict[str, bytes]) -> None:
    runs = [fresh.trigger("one"), fresh.trigger("other")]
    for run in runs:
        fresh.finish(run)
    one, other = (fresh.statuses(run) for run in runs)
    assert one.keys() == other.keys()
    for stage in STAGES_OF_ONE_PIECE:
        attempts = list(fresh.world.store.glob(f"artifacts/{stage}/*/attempts/*"))
        assert len(attempts) == len(list(fresh.world.store.glob(f"artifacts/{stage}/*/record.json"))) > 0, stage
    parts = list(fresh.world.store.glob("artifacts/extract/*/partitions/*/attempts/*"))
    assert len(parts) == len(list(fresh.world.store.glob("artifacts/extract/*/partitions/*.json"))) == 3
    assert {one["train_proxy"], other["train_proxy"]} == {"built", "hit"}
    assert fresh.world.published() == expected


def test_airflow_ends_without_leaving_a_process(airflow: Airflow) -> None:
    assert any("scheduler" in command for command in processes_of(airflow.home))
    airflow.stop()
    assert not airflow.server.is_running()
    airflow.start()
