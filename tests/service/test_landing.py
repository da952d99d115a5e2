"""Landed data under a real scheduler, on moto's S3 and SQS: one run a snapshot, selections followed, failures told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("airflow", reason="Airflow is not installed: make airflow")
pytest.importorskip("aiosmtpd")

import boto3

from infra.airflow_client import FINISHED, Client
from tests import small_world
from tests.alerts.mailbox import Mailbox
from tests.alerts.receiver import Receiver, receiving
from tests.end_to_end.line import World
from tests.s3_servers import S3Server, moto_server
from tests.service.real_airflow import Airflow, wait_until
from xmas_job.storage.landing import SUCCESS
from xmas_job.storage.roots import open_store
from xmas_job.storage.store import Store

pytestmark = pytest.mark.service

CONF = {"budget": "50%", "train_target": False}
LONG = "86400"
"""Seconds: the clock looks once, at the start. What comes later can only have come by an event."""


@dataclass(frozen=True)
class Bucket:
    """A store on S3, and the queue that S3 tells of its _SUCCESS files."""

    server: S3Server
    root: str
    queue: str

    @property
    def store(self) -> Store:
        return open_store(self.root)

    @property
    def variables(self) -> dict[str, str]:
        clients = {"AWS_ENDPOINT_URL": self.server.endpoint, "AWS_DEFAULT_REGION": "us-east-1"}
        return {**self.server.variables, **clients, "XMAS_STORE_ROOT": self.root}

    def land(self, folder: Path) -> None:
        """Copy a landed version, _SUCCESS last."""
        prefix = f"landing/demo/{folder.name}"
        for path in sorted(found for found in folder.rglob("*") if found.is_file() and found.name != SUCCESS):
            self.store.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        self.announce(folder.name)

    def announce(self, version: str) -> None:
        """S3 tells of every put, also of one that changes nothing."""
        self.store.put(f"landing/demo/{version}/{SUCCESS}", b"")

    def notify(self) -> None:
        """From now on, S3 tells the queue."""
        clients = {name: client(self.server, name) for name in ("s3", "sqs")}
        arn = clients["sqs"].get_queue_attributes(QueueUrl=self.queue, AttributeNames=["QueueArn"])["Attributes"]
        rule = {
            "QueueArn": arn["QueueArn"],
            "Events": ["s3:ObjectCreated:*"],
            "Filter": {"Key": {"FilterRules": [{"Name": "suffix", "Value": SUCCESS}]}},
        }
        clients["s3"].put_bucket_notification_configuration(
            Bucket=self.server.bucket, NotificationConfiguration={"QueueConfigurations": [rule]}
        )
        clients["sqs"].purge_queue(QueueUrl=self.queue)  # S3 tries the queue out by a message

    def waiting(self) -> int:
        """Messages that nobody has taken yet."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        counts = client(self.server, "sqs").get_queue_attributes(QueueUrl=self.queue, AttributeNames=names)
        return sum(int(counts["Attributes"][name]) for name in names)


def client(server: S3Server, name: str) -> Any:
    keys = {name.lower(): value for name, value in server.keys.items()}
    return boto3.session.Session(**keys).client(name, endpoint_url=server.endpoint, region_name="us-east-1")


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with moto_server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.variables.items():
            patch.setenv(name, value)
        queue = client(server, "sqs").create_queue(QueueName="landed")["QueueUrl"]
        yield Bucket(server, server.new_root(), queue)


@pytest.fixture(scope="module")
def mailbox() -> Iterator[Mailbox]:
    with Mailbox() as server:
        yield server


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folders of the versions v1, v2 and v3 of the dataset `demo`, outside of the store."""
    world = small_world.World(tmp_path_factory.mktemp("versions"))
    return [small_world.land_version(world, "demo", version) for version in ("v1", "v2", "v3")]


@pytest.fixture(scope="module")
def airflow(
    bucket: Bucket,
    mailbox: Mailbox,
    receiver: Receiver,
    versions: list[Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Airflow]:
    """v1 has landed before, and nobody has announced it."""
    world = World(tmp_path_factory.mktemp("world"))
    world.recipe.write_text(json.dumps(small_world.RECIPE))
    bucket.land(versions[0])
    bucket.notify()
    landing = {"CONF": json.dumps({"recipe": str(world.recipe), **CONF}), "QUEUE": bucket.queue, "POLL_SECONDS": "5"}
    started = Airflow(
        world,
        tmp_path_factory.mktemp("airflow") / "home",
        **bucket.variables,
        **{f"XMAS_LANDING_{name}": value for name, value in landing.items()},
        XMAS_LANDING_RECONCILE_SECONDS=LONG,
        XMAS_ALERT_WATCH_SECONDS=LONG,
        XMAS_ALERT_URLS=f"{receiver.url} {mailbox.url}",
    )
    yield started
    started.stop()


def ask(airflow: Airflow, dag: str) -> Client:
    found = Client(airflow.server.url, airflow.server.password, dag)
    wait_until(found.is_ready, dag)
    return found


def landed_runs(airflow: Airflow) -> list[dict[str, Any]]:
    return [run for run in airflow.client.runs() if run["dag_run_id"].startswith("landed-")]


def asked_for(landing: Client, kind: str) -> set[str]:
    """Runs of xmas_selection that ended looks of a kind asked for. Those that found nothing new asked for none."""
    ended = [run["dag_run_id"] for run in landing.runs() if run["run_type"] == kind and run["state"] in FINISHED]
    return {landing.result(run, "look")["run"] for run in ended if look_state(landing, run) == "success"}


def look_state(landing: Client, run_id: str) -> str:
    (state,) = [task["state"] for task in landing.tasks(run_id) if task["task_id"] == "look"]
    return str(state)


def test_failed_stage_is_told_by_mail_and_webhook(airflow: Airflow, mailbox: Mailbox, receiver: Receiver) -> None:
    airflow.trigger("too-much", budget="100000")
    wait_until(lambda: airflow.client.state("too-much") in FINISHED, "the run to fail")
    assert airflow.client.state("too-much") == "failed"
    (alert,) = wait_until(lambda: [found for found in receiver.got if "too-much" in found["title"]], "the webhook")
    (mail,) = wait_until(lambda: [found for found in mailbox.got if "too-much" in found["subject"]], "the mail")
    assert alert["title"] == mail["subject"] == "xmas_job: the budget of run too-much is above its pool"
    told = mail.get_content()
    for words in (alert["message"], told):
        lines = [line.strip() for line in words.splitlines()]
        assert lines[0].startswith("budget 100000 is above the pool: 12 examples are eligible. Ask for at most 12")
        assert "Run: too-much" in lines
        assert "Stage: pool" in lines
        page = f"Look: {airflow.server.url}/dags/xmas_selection/runs/too-much/tasks/pool.build"
        assert any(line.startswith(page) for line in lines)
        assert any(line.startswith("airflow dags trigger xmas_selection --conf '{") for line in lines)
    assert "secret@" not in airflow.server.log.read_text(errors="replace")


def test_every_snapshot_is_run_once_and_followed(
    airflow: Airflow, bucket: Bucket, versions: list[Path], receiver: Receiver
) -> None:
    landing, consumer = ask(airflow, "xmas_landing"), ask(airflow, "xmas_example_consumer")
    consumer.unpause()

    def wait_for(num_runs: int, what: str) -> set[str]:
        wait_until(lambda: len(landed_runs(airflow)) == num_runs, what)
        return {run["dag_run_id"] for run in landed_runs(airflow)}

    first = wait_for(1, "the clock to find what nobody announced")
    bucket.land(versions[1])
    wait_for(2, "an event to start a run")
    bucket.land(versions[2])
    bucket.announce("v3")
    runs = wait_for(3, "a doubled event to start a run")
    for run in runs:
        airflow.finish(run)
    num_looks = len(landing.runs())
    bucket.announce("v3")
    wait_until(lambda: len(landing.runs()) > num_looks, "a late double to be looked at")
    wait_until(lambda: bucket.waiting() == 0, "the queue to be empty")
    wait_until(lambda: all(run["state"] in FINISHED for run in landing.runs()), "all looks to end")

    assert [run["conf"]["datasets"] for run in landed_runs(airflow)] == [["demo@v1"], ["demo@v2"], ["demo@v3"]]
    assert asked_for(landing, "scheduled") == first
    assert asked_for(landing, "asset_triggered") == runs - first
    assert all(run["state"] == "success" for run in landing.runs())
    assert look_state(landing, landing.runs()[-1]["dag_run_id"]) == "skipped"
    assert not [alert for alert in receiver.got if "landed-" in alert["title"]], "nothing of them has failed"

    published = {f"{bucket.store.uri}/selections/{name}" for name in bucket.store.folders("selections")}
    assert len(published) == 3
    wait_until(lambda: pulled(consumer) == published, "the consumer to pull all of them")


def pulled(consumer: Client) -> set[str]:
    ended = [run["dag_run_id"] for run in consumer.runs() if run["state"] == "success"]
    return {uri for run in ended for uri in consumer.result(run, "pull")}
