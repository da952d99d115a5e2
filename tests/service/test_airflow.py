"""A real Airflow with a scheduler: runs through its REST API, and processes killed in mid-run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import psutil
import pytest

from infra.airflow_client import FINISHED, RefusedError
from tests.end_to_end.line import RECIPE, land
from tests.service.real_airflow import Airflow, processes_of, wait_until

pytestmark = pytest.mark.service

STAGES_OF_ONE_PIECE = ("ingest", "pool", "train_proxy", "cluster", "select", "publish", "report")


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
