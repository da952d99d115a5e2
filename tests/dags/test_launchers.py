"""The launchers `docker` and `kubernetes` as Airflow parses them. Containers are run in tests/service, pods nowhere."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from dags.gpu_locks import some_gpus
from tests.dags.conftest import Ask
from xmas_job.errors import UsageError
from xmas_job.pipeline import STAGES

SECRETS = {"AWS_SECRET_ACCESS_KEY": "hush-1", "XMAS_ALERT_URLS": "json://hush-2@host", "AWS_SESSION_TOKEN": "hush-3"}
OWN = {
    "AWS_CA_BUNDLE": "/mine",
    "XMAS_SCRATCH": "/mine",
    "AWS_ROLE_ARN": "mine",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": "mine",
}
GPUS = {spec.name: spec.resources.gpus for spec in STAGES}


@pytest.fixture(scope="module", params=["docker", "kubernetes"])
def launched(request: pytest.FixtureRequest, ask_airflow: Ask) -> dict[str, Any]:
    return ask_airflow("facts", XMAS_LAUNCHER=request.param, XMAS_GPU_POOL="gpus", XMAS_MAX_GPUS="2", **SECRETS)


@pytest.fixture(scope="module")
def pod(ask_airflow: Ask) -> dict[str, Any]:
    unit = json.dumps({"stage": "extract:demo@v1", "partition": 3})
    settings = {"NAMESPACE": "jobs", "SECRET": "bucket", "IMAGE": "registry/xmas-job:1", "SERVICE_ACCOUNT": "xmas"}
    variables = {f"XMAS_KUBERNETES_{name}": value for name, value in settings.items()}
    more = {"XMAS_STORE_ROOT": "s3://bucket/store", "AWS_REGION": "here", **OWN}
    return ask_airflow("pod", "extract", unit, XMAS_LAUNCHER="kubernetes", **variables, **more, **SECRETS)


def test_line_is_the_same_under_every_launcher(launched: dict[str, Any], facts: dict[str, Any]) -> None:
    assert launched["import_errors"] == {}
    same = ("upstream", "is_mapped", "trigger_rule", "retries", "hours", "has_alert")
    for name, task in facts["tasks"].items():
        assert {key: launched["tasks"][name][key] for key in same} == {key: task[key] for key in same}, name
    assert launched["tasks_after_a_round_trip"] == sorted(facts["tasks"])


def test_gpus_are_asked_for_up_to_the_limit(launched: dict[str, Any]) -> None:
    for stage, gpus in GPUS.items():
        task = launched["tasks"][f"{stage}.build"]
        assert task["pool"] == ("gpus" if gpus else "default_pool")
        assert task["pool_slots"] == max(1, min(gpus, 2))


def test_no_secret_gets_into_airflows_database(launched: dict[str, Any]) -> None:
    assert "StageContainer" in launched["serialized"] or "StagePod" in launched["serialized"]
    assert "hush" not in launched["serialized"]


def test_pod_builds_the_unit_and_nothing_else(pod: dict[str, Any]) -> None:
    container = pod["pod"]["spec"]["containers"][0]
    assert container["args"] == ["stage", "extract:demo@v1", "--run", "m-1+1", "--partition", "3"]
    assert not container.get("command"), "the image's entrypoint is xmas-job"
    assert container["image"] == "registry/xmas-job:1"
    assert pod["unit"] == "extract:demo@v1 partition 3"
    assert pod["pod"]["metadata"]["namespace"] == "jobs"
    labels = pod["pod"]["metadata"]["labels"]
    assert labels["xmas_job.try"] == "2"
    assert labels["xmas_job.run"].startswith("m-11-")  # a label takes fewer characters, so a digest is added
    assert labels["xmas_job.stage"].startswith("extractdemov1partition3")


def test_pod_has_gpus_memory_and_room_to_write(pod: dict[str, Any]) -> None:
    spec = pod["pod"]["spec"]
    container = spec["containers"][0]
    assert container["resources"] == {
        "requests": {"memory": "64Gi"},
        "limits": {"memory": "64Gi", "nvidia.com/gpu": "1"},
    }
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"shm": "/dev/shm", "scratch": "/scratch"}
    volumes = {volume["name"]: volume["emptyDir"] for volume in spec["volumes"]}
    assert volumes == {"shm": {"medium": "Memory", "sizeLimit": "8Gi"}, "scratch": {"sizeLimit": "200Gi"}}
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"]
    assert security["runAsNonRoot"]
    assert not security["allowPrivilegeEscalation"]
    assert spec["restartPolicy"] == "Never"


def test_pod_gets_its_rights_from_the_cluster(pod: dict[str, Any]) -> None:
    container = pod["pod"]["spec"]["containers"][0]
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    assert variables["XMAS_STORE_ROOT"] == "s3://bucket/store"
    assert variables["AWS_REGION"] == "here"
    assert variables.keys().isdisjoint({"XMAS_LAUNCHER", "XMAS_KUBERNETES_IMAGE", *OWN, *SECRETS})
    assert "hush" not in json.dumps(pod["pod"])
    assert container["envFrom"] == [{"secretRef": {"name": "bucket"}}]
    assert pod["pod"]["spec"]["serviceAccountName"] == "xmas"


def test_pod_is_waited_for_in_the_triggerer_and_found_again(pod: dict[str, Any]) -> None:
    assert pod["operator"] == {"deferrable": "True", "durable": "True", "on_finish_action": "OnFinishAction.DELETE_POD"}


def test_end_of_a_pod_fails_retries_or_skips_with_the_stages_own_words(pod: dict[str, Any]) -> None:
    bad_data, memory, signal, nothing, image, unknown = pod["ends"]
    assert bad_data == ["AirflowFailException", "bad rows. Look."]
    assert memory[0] == "AirflowException"
    assert "more memory than its pod has" in memory[1]
    assert signal[0] == "AirflowException"
    assert "was ended by SIGTERM" in signal[1]
    assert nothing[0] == "AirflowSkipException"
    assert image[0] == "AirflowFailException"
    assert "no image 'registry/xmas-job:1': no such host" in image[1]
    assert unknown == []


def test_gpus_of_a_machine_are_given_to_one_task_at_a_time(tmp_path: Path) -> None:
    got = threading.Event()

    def second() -> None:
        with some_gpus(["0", "1", "2"], 2, tmp_path) as held:
            assert held == ["0", "1"]
            got.set()

    with some_gpus(["0", "1", "2"], 2, tmp_path) as held:
        assert held == ["0", "1"]
        with some_gpus(["0", "1", "2"], 1, tmp_path) as other:
            assert other == ["2"]
        waiting = threading.Thread(target=second)
        waiting.start()
        assert not got.wait(0.2)
    waiting.join(10)
    assert got.is_set()


def test_more_gpus_than_there_are_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match="asks for 4 GPUs, and XMAS_DOCKER_GPU_IDS names 1"),
        some_gpus(["0"], 4, tmp_path),
    ):
        pass
