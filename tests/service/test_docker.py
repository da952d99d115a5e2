"""Containers of our own images: real engine, real scheduler, containers killed in mid-run, what an engine refuses."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("docker", reason="the launcher comes with the extra `airflow`: make airflow")

import psutil

from dags.left_containers import remove, remove_forgotten
from tests.alerts.receiver import Receiver
from tests.dags.conftest import Ask, ask_airflow
from tests.end_to_end.line import RECIPE, World, land
from tests.service.docker_engine import AIRFLOW_IMAGE, JOB_IMAGE, Engine
from tests.service.radosgw import radosgw_server
from tests.service.real_airflow import Airflow, wait_until
from xmas_job.errors import TryAgainError
from xmas_job.storage.roots import open_store
from xmas_job.storage.store import Store

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
    """Landed, in a folder; nothing has run."""
    return land(tmp_path_factory.mktemp("landed") / "world", RECIPE)


@pytest.fixture(scope="module")
def finished(world: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The line has run, without Airflow, containers and S3."""
    copy = world.copy(tmp_path_factory.mktemp("finished") / "world")
    copy.run()
    return copy


@pytest.fixture(scope="module")
def bucket(world: World) -> Iterator[tuple[Store, dict[str, str]]]:
    """What has landed, on a real S3 server; the variables that lead there."""
    with radosgw_server() as server, pytest.MonkeyPatch.context() as patch:
        variables = {**server.variables, "XMAS_STORE_ROOT": server.new_root()}
        for name, value in variables.items():
            patch.setenv(name, value)
        store = open_store(variables["XMAS_STORE_ROOT"])
        for path in sorted(found for found in world.store.rglob("*") if found.is_file()):
            store.put(path.relative_to(world.store).as_posix(), path.read_bytes())
        yield store, variables


def worker(engine: Engine) -> dict[str, str]:
    """Variables of a worker that launches containers."""
    return {
        "DOCKER_HOST": engine.host,
        "XMAS_LAUNCHER": "docker",
        "XMAS_MAX_GPUS": "0",
        "XMAS_DOCKER_IMAGE": JOB_IMAGE,
        "XMAS_DOCKER_USER": f"{os.getuid()}:{os.getgid()}",
        "XMAS_LEASE_TTL_SECONDS": "10",
    }


def try_run(ask_airflow: Ask, engine: Engine, world: World, **more: str) -> dict[str, Any]:
    """Run the DAG by `dag.test()`, its containers on the world's folder."""
    environment = {name: value for name, value in world.environment().items() if name.startswith("XMAS_")}
    conf = json.dumps({"recipe": str(world.recipe), **CONF})
    mounts = {"XMAS_DOCKER_MOUNTS": str(world.store)}
    return ask_airflow("try", conf, **{**environment, **worker(engine), **mounts, **more})


def failed(answer: dict[str, Any]) -> list[str]:
    return [name for name, states in answer["tasks"].items() if "failed" in states]


def containers(engine: Engine, **labels: str) -> list[Any]:
    asked = [f"xmas_job.{name}={value}" for name, value in labels.items()] or ["xmas_job.run"]
    found: list[Any] = engine.client().containers.list(all=True, filters={"label": asked}, ignore_removed=True)
    return found


def left(engine: Engine) -> list[Any]:
    return [*containers(engine), *engine.client().volumes.list()]


def published(store: Store) -> dict[str, bytes]:
    keys = [entry.key for entry in store.list("selections") if not entry.key.endswith("provenance.json")]
    return {key.split("/", 2)[2]: store.read(key) for key in keys}


def test_missing_image_fails_at_once_and_is_told(
    ask_airflow: Ask, engine: Engine, world: World, receiver: Receiver
) -> None:
    more = {"XMAS_DOCKER_IMAGE": "xmas-job:nowhere", "XMAS_ALERT_URLS": receiver.url}
    assert failed(try_run(ask_airflow, engine, world, **more)) == ["ingest.build"]
    (alert,) = receiver.got
    assert "the engine has no image 'xmas-job:nowhere'" in alert["message"]
    assert "docker build -f docker/job.Dockerfile" in alert["message"]
    assert left(engine) == []


def test_killed_container_and_killed_task_end_with_the_bytes_of_a_run_without_containers(
    engine: Engine, world: World, bucket: tuple[Store, dict[str, str]], finished: World, tmp_path: Path
) -> None:
    """On S3: the containers have the host's network, because the server answers on its loopback only."""
    store, variables = bucket
    airflow = Airflow(world, tmp_path / "home", **worker(engine), **variables, XMAS_DOCKER_NETWORK="host")
    try:
        airflow.trigger(RUN)
        first, second = (f"extract:demo@v1 partition {partition}" for partition in (0, 1))

        def at_work(stage: str) -> Any:
            found = containers(engine, run=RUN, stage=stage, **{"try": "1"})
            return found[0] if found and found[0].status == "running" else None

        wait_until(lambda: at_work(first), "the first partition").kill()
        container = wait_until(lambda: at_work(second), "the second partition")
        (task,) = [task for task in airflow.client.tasks(RUN) if (task["task_id"], task["map_index"]) == (BUILD, 1)]
        psutil.Process(task["pid"]).kill()
        # By itself and at once: not 0, as when it had finished, nor 137, as when the next try had removed it.
        assert container.wait(timeout=60)["StatusCode"] == TryAgainError.exit_code

        tasks = {task["rendered_map_index"]: task for task in airflow.finish(RUN)}
        assert (tasks[first]["try_number"], tasks[second]["try_number"]) == (2, 2)
        assert published(store) == finished.published()
        assert set(airflow.statuses(RUN).values()) == {"built"}
        assert left(engine) == []
    finally:
        airflow.stop()


def test_no_gpu_fails_at_once_and_a_machine_that_has_one_goes_on(
    ask_airflow: Ask, engine: Engine, finished: World, receiver: Receiver
) -> None:
    """The engine's GPU is none: it accepts the request, and the stage then runs on the CPU."""
    shutil.rmtree(finished.store / "artifacts/extract")
    more = {"XMAS_MAX_GPUS": "1", "XMAS_ALERT_URLS": receiver.url, "XMAS_DOCKER_ULIMITS": "nofile=4096:8192"}
    assert failed(try_run(ask_airflow, engine, finished, **more)) == [BUILD]
    (alert,) = receiver.got  # of the stage, though every partition of it failed
    assert "the engine gives no GPU: could not select device driver" in alert["message"]
    assert "XMAS_MAX_GPUS=0" in alert["message"]
    assert left(engine) == []

    engine.restart(fake_gpu=True)
    try:
        seen: list[dict[str, Any]] = []
        watching = threading.Thread(target=lambda: seen.append(first_container(engine)))
        watching.start()
        answer = try_run(ask_airflow, engine, finished, **more)
        watching.join()
        assert left(engine) == []
    finally:
        engine.restart(fake_gpu=False)
    assert answer["state"] == "success"
    # The parts have the bytes of those that were built without containers, so nothing after them is built again.
    assert (answer["tasks"][BUILD], answer["tasks"]["cluster.build"]) == (["success"] * 3, ["skipped"])
    check_first_partition(seen[0], finished)


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


def test_container_that_no_task_follows_is_removed_in_time_with_its_scratch(engine: Engine) -> None:
    """As is left by a worker that was killed with the last try of its task: the run's next one has another id."""
    client = engine.client()
    ours, other = ({"xmas_job.store": store, "xmas_job.run": "r1"} for store in ("/ours", "/other"))
    try:
        ended = client.containers.run(JOB_IMAGE, labels=ours, volumes=["/scratch"], detach=True)
        elsewhere = client.containers.create(JOB_IMAGE, labels=other)
        ended.wait()
        made = client.containers.create(JOB_IMAGE, labels=ours)
        at_work = client.containers.run(JOB_IMAGE, "600", entrypoint="sleep", labels=ours, detach=True)
        store = {"xmas_job.store": "/ours"}
        remove_forgotten(client.api, store)
        assert {found.id for found in left(engine)} >= {ended.id, made.id}, "not before its time"
        remove_forgotten(client.api, store, timedelta(0))
        assert {found.id for found in left(engine)} == {at_work.id, elsewhere.id}
    finally:
        for found in containers(engine):
            remove(client.api, found.id)


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
