"""Containers of our own images: real engine, real scheduler, containers killed in mid-run, what an engine refuses."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("docker", reason="the launcher comes with the extra `airflow`: make airflow")

import psutil

from tests.alerts.receiver import Receiver
from tests.dags.conftest import Ask, ask_airflow
from tests.end_to_end.line import RECIPE, World, land
from tests.service.docker_engine import AIRFLOW_IMAGE, JOB_IMAGE, Engine
from tests.service.real_airflow import Airflow, wait_until

__all__ = ["ask_airflow"]
pytestmark = pytest.mark.service

BUILD = "extract.build"
RUN = "in-containers"
CONF = {"budget": "20%", "train_target": False}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    started = Engine()
    started.build("docker/job.Dockerfile", JOB_IMAGE, LOCK="docker/locks/job.txt")
    yield started
    started.stop()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return land(tmp_path_factory.mktemp("landed") / "world", RECIPE)


@pytest.fixture(scope="module")
def expected(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run without Airflow and containers publishes."""
    copy = world.copy(tmp_path_factory.mktemp("undisturbed") / "world")
    copy.run()
    return copy.published()


@pytest.fixture(scope="module")
def variables(engine: Engine, world: World) -> dict[str, str]:
    """Of a worker whose containers have the store's folder."""
    return {
        "DOCKER_HOST": engine.host,
        "XMAS_LAUNCHER": "docker",
        "XMAS_MAX_GPUS": "0",
        "XMAS_DOCKER_IMAGE": JOB_IMAGE,
        "XMAS_DOCKER_MOUNTS": str(world.store),
        "XMAS_DOCKER_USER": f"{os.getuid()}:{os.getgid()}",
        "XMAS_LEASE_TTL_SECONDS": "10",
    }


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def try_run(ask_airflow: Ask, world: World, variables: dict[str, str], **more: str) -> dict[str, Any]:
    environment = {name: value for name, value in world.environment().items() if name.startswith("XMAS_")}
    conf = json.dumps({"recipe": str(world.recipe), **CONF})
    return ask_airflow("try", conf, **{**environment, **variables, **more})


def failed(answer: dict[str, Any]) -> list[str]:
    return [name for name, states in answer["tasks"].items() if "failed" in states]


def containers(engine: Engine, **labels: str) -> list[Any]:
    asked = [f"xmas_job.{name}={value}" for name, value in labels.items()] or ["xmas_job.run"]
    found: list[Any] = engine.client().containers.list(all=True, filters={"label": asked}, ignore_removed=True)
    return found


def left(engine: Engine) -> list[Any]:
    return [*containers(engine), *engine.client().volumes.list()]


def test_missing_image_fails_at_once_and_is_told(
    ask_airflow: Ask, engine: Engine, world: World, variables: dict[str, str], receiver: Receiver
) -> None:
    more = {"XMAS_DOCKER_IMAGE": "xmas-job:nowhere", "XMAS_ALERT_URLS": receiver.url}
    assert failed(try_run(ask_airflow, world, variables, **more)) == ["ingest.build"]
    (alert,) = {alert["message"] for alert in receiver.got}
    assert "the engine has no image 'xmas-job:nowhere'" in alert
    assert "docker build -f docker/job.Dockerfile" in alert
    assert left(engine) == []


def test_killed_container_and_killed_task_end_with_the_bytes_of_a_run_without_containers(
    engine: Engine, world: World, variables: dict[str, str], expected: dict[str, bytes], tmp_path: Path
) -> None:
    airflow = Airflow(world, tmp_path / "home", **variables)
    try:
        airflow.trigger(RUN)
        first, second = (f"extract:demo@v1 partition {partition}" for partition in (0, 1))

        def at_work(stage: str, number: int) -> Any:
            found = containers(engine, run=RUN, stage=stage, **{"try": str(number)})
            return found[0] if found and found[0].status == "running" else None

        wait_until(lambda: at_work(first, 1), "the first partition").kill()
        container = wait_until(lambda: at_work(second, 1), "the second partition")
        (task,) = [task for task in airflow.client.tasks(RUN) if (task["task_id"], task["map_index"]) == (BUILD, 1)]
        psutil.Process(task["pid"]).kill()
        wait_until(lambda: not runs(engine, container.id), "the container to end with its task")

        tasks = {task["rendered_map_index"]: task for task in airflow.finish(RUN)}
        assert (tasks[first]["try_number"], tasks[second]["try_number"]) == (2, 2)
        assert world.published() == expected
        assert set(airflow.statuses(RUN).values()) == {"built"}
        assert left(engine) == []
    finally:
        airflow.stop()


def test_no_gpu_fails_at_once_and_a_machine_that_has_one_goes_on(
    ask_airflow: Ask,
    engine: Engine,
    world: World,
    variables: dict[str, str],
    expected: dict[str, bytes],
    receiver: Receiver,
) -> None:
    """The engine's GPU is none: it accepts the request, and the stage then runs on the CPU."""
    shutil.rmtree(world.store / "artifacts/extract")
    more = {"XMAS_MAX_GPUS": "1", "XMAS_ALERT_URLS": receiver.url, "XMAS_DOCKER_ULIMITS": "nofile=4096:8192"}
    refused = try_run(ask_airflow, world, variables, **more)
    assert failed(refused) == [BUILD]
    (alert,) = {alert["message"] for alert in receiver.got}
    assert "the engine gives no GPU: could not select device driver" in alert
    assert "XMAS_MAX_GPUS=0" in alert
    assert left(engine) == []

    engine.restart(fake_gpu=True)
    try:
        seen: list[dict[str, Any]] = []
        watching = threading.Thread(target=lambda: seen.append(first_container(engine)))
        watching.start()
        assert try_run(ask_airflow, world, variables, **more)["state"] == "success"
        watching.join()
        assert left(engine) == []
    finally:
        engine.restart(fake_gpu=False)
    assert world.published() == expected
    check_first_partition(seen[0], world)


def check_first_partition(container: dict[str, Any], world: World) -> None:
    """What the engine was asked for, as it tells it."""
    host, config = container["HostConfig"], container["Config"]
    (gpus,) = host["DeviceRequests"]
    assert (gpus["Driver"], gpus["Count"], gpus["Capabilities"]) == ("nvidia", 1, [["gpu"]])
    assert host["ShmSize"] == 2**30
    assert host["Memory"] == 64 * 2**30
    assert host["Ulimits"] == [{"Name": "nofile", "Soft": 4096, "Hard": 8192}]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert {mount["Destination"]: mount["Type"] for mount in container["Mounts"]} == {
        "/scratch": "volume",
        str(world.store): "bind",
    }
    labels = config["Labels"]
    assert labels["xmas_job.stage"].startswith("extract:demo@v1 partition ")
    assert labels["xmas_job.try"] == "1"
    names = {variable.partition("=")[0] for variable in config["Env"]}
    assert {"XMAS_STORE_ROOT", "XMAS_GIT_SHA"} <= names
    assert names.isdisjoint({"XMAS_ALERT_URLS", "XMAS_LAUNCHER", "XMAS_DOCKER_IMAGE"})


def first_container(engine: Engine) -> dict[str, Any]:
    (container, *_) = wait_until(lambda: [found for found in containers(engine) if found.attrs], "a container")
    attributes: dict[str, Any] = container.attrs
    return attributes


def runs(engine: Engine, container: str) -> bool:
    return any(found.id == container and found.status == "running" for found in containers(engine))


def test_airflow_image_has_the_dags_and_no_torch(engine: Engine) -> None:
    engine.build("docker/airflow.Dockerfile", AIRFLOW_IMAGE)
    code = (
        "import importlib.util, json\n"
        "from airflow.dag_processing.dagbag import BundleDagBag\n"
        "bag = BundleDagBag(dag_folder='dags', bundle_path='dags', bundle_name='dags')\n"
        "torch = importlib.util.find_spec('torch') is not None\n"
        "print(json.dumps([bag.import_errors, sorted(bag.dags), torch]))\n"
    )
    output = engine.client().containers.run(AIRFLOW_IMAGE, ["-c", code], entrypoint="python", remove=True)
    errors, dags, has_torch = json.loads(output.decode().strip().splitlines()[-1])
    assert errors == {}
    assert "xmas_selection" in dags
    assert not has_torch
