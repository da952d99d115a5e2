"""The whole line on an S3 store, through the command line: the same bytes as in a folder."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.line import DEADLINE_SECONDS, World
from tests.processes import wait_until
from tests.s3_servers import S3Server
from xmas_job.commands.process import event_of
from xmas_job.storage.roots import open_store
from xmas_job.storage.store import Store

pytestmark = pytest.mark.end_to_end


@dataclass(frozen=True)
class Bucket:
    """What has landed in a world, in a bucket; no folder store."""

    world: World
    server: S3Server
    root: str
    store: Store

    def call(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        own = {**self.server.variables, "XMAS_STORE_ROOT": self.root, **variables}
        process = self.world.start(*arguments, variables=own)
        stdout, stderr = process.communicate(timeout=DEADLINE_SECONDS)
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    def run(self, *arguments: str, **variables: str) -> dict[str, Any]:
        done = self.call("run", "--recipe", str(self.world.recipe), "--json", *arguments, **variables)
        assert done.returncode == 0, done.stderr[-3000:]
        result: dict[str, Any] = json.loads(done.stdout)
        return result


@pytest.fixture(scope="module")
def bucket(landed: World, moto: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    world = World(tmp_path_factory.mktemp("on-s3"))
    world.recipe.write_bytes(landed.recipe.read_bytes())
    root = moto.new_root()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in moto.variables.items():
            patch.setenv(name, value)
        patch.setenv("XMAS_SCRATCH", str(world.folder / "scratch"))
        store = open_store(root)
        for path in sorted(found for found in landed.store.rglob("*") if found.is_file()):
            store.put(path.relative_to(landed.store).as_posix(), path.read_bytes())
        yield Bucket(world, moto, root, store)


@pytest.fixture(scope="module")
def result(bucket: Bucket) -> dict[str, Any]:
    """The whole line, comparison included."""
    return bucket.run("--run-id", "tested")


def published(store: Store) -> dict[str, bytes]:
    keys = [entry.key for entry in store.list("selections") if not entry.key.endswith("provenance.json")]
    return {key.split("/", 2)[2]: store.read(key) for key in keys}


def test_line_publishes_the_same_bytes_as_in_a_folder(bucket: Bucket, result: dict[str, Any], finished: World) -> None:
    in_a_folder = json.loads(finished.call("show", "tested", "--json").stdout)
    assert result["selection_id"] == in_a_folder["selection_id"]
    assert [stage["stage"] for stage in result["stages"]] == [stage["stage"] for stage in in_a_folder["stages"]]
    assert [stage["digest"] for stage in result["stages"]][:-1] == [stage["digest"] for stage in in_a_folder["stages"]][
        :-1
    ]
    assert published(bucket.store) == finished.published()
    assert bucket.store.read("runs/tested/report/index.html").lower().startswith(b"<!doctype html>")
    assert not bucket.world.store.exists()


def test_second_run_with_an_empty_cache_finds_everything(
    bucket: Bucket, result: dict[str, Any], tmp_path: Path
) -> None:
    again = bucket.run(XMAS_SCRATCH=str(tmp_path / "scratch"))
    assert {stage["status"] for stage in again["stages"]} == {"hit"}
    assert again["selection_id"] == result["selection_id"]


def test_command_of_the_report_runs_the_same_again(bucket: Bucket, result: dict[str, Any]) -> None:
    report = json.loads(bucket.store.read(f"runs/{result['run']}/report/report.json"))
    (command,) = [entry["command"] for entry in report["run"]["commands"] if entry["purpose"] == "Run the same again"]
    assert shlex.split(command)[:3] == ["xmas-job", "run", "--recipe"]
    again = bucket.call(*shlex.split(command)[1:], "--json")
    assert again.returncode == 0, again.stderr[-3000:]
    assert json.loads(again.stdout)["selection_id"] == result["selection_id"]
    missing = bucket.call("plan", "--recipe", f"{bucket.root}/none.yaml")
    assert missing.returncode == 2
    assert missing.stderr.startswith(f"error: there is no recipe at {bucket.root}/none.yaml.")


def test_selection_is_proved_by_its_uri(bucket: Bucket, result: dict[str, Any]) -> None:
    assert result["manifest"].startswith(bucket.root)
    proved = bucket.call("verify", result["manifest"].removesuffix("/manifest.json"), XMAS_STORE_ROOT="")
    assert (proved.returncode, proved.stderr) == (0, "")
    assert bucket.call("verify", result["selection_id"]).returncode == 0


def test_only_the_cache_is_left_in_scratch(bucket: Bucket, result: dict[str, Any]) -> None:
    assert [path.name for path in (bucket.world.folder / "scratch").iterdir() if path.name != "cache"] == []
    assert list((bucket.world.folder / "scratch/cache/unfinished").iterdir()) == []


def training_of(bucket: Bucket) -> list[str]:
    """Keys of the proxy's training, but its leases."""
    return [e.key for e in bucket.store.list("artifacts/train_proxy") if "/lease/" not in e.key]


def states(bucket: Bucket) -> list[str]:
    """Names of the states to go on from that are whole."""
    return [key for key in training_of(bucket) if "/resume/" in key and key.endswith("/MANIFEST.json")]


@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, 75), (signal.SIGKILL, -signal.SIGKILL)])
def test_stopped_training_goes_on_from_the_bucket_on_another_machine(
    bucket: Bucket, result: dict[str, Any], tmp_path: Path, how: signal.Signals, code: int
) -> None:
    """Nothing of the first machine's disk is there: the scratch folder of the second is another."""
    (before,) = [key for key in training_of(bucket) if key.endswith("/record.json")]
    digest = json.loads(bucket.store.read(before))["digest"]
    for entry in list(bucket.store.list("artifacts/train_proxy")):
        bucket.store.delete(entry.key)

    def call(name: str, **variables: str) -> subprocess.Popen[str]:
        own = {"XMAS_STORE_ROOT": bucket.root, "XMAS_SCRATCH": str(tmp_path / name), "XMAS_LEASE_TTL_SECONDS": "3"}
        log = (tmp_path / f"{name}.jsonl").open("w")
        command = ("stage", "train_proxy", "--run", result["run"])
        return bucket.world.start(*command, variables={**bucket.server.variables, **own, **variables}, stderr=log)

    first = call("first", XMAS_RESUME_STEPS="1")
    try:
        wait_until(lambda: states(bucket) or first.poll() is not None, "a state in the bucket", DEADLINE_SECONDS)
    finally:
        first.send_signal(how)
    assert first.wait(DEADLINE_SECONDS) == code, (tmp_path / "first.jsonl").read_text()[-3000:]
    shutil.rmtree(tmp_path / "first")
    (*_, kept) = states(bucket)
    second = call("second")
    stdout, _ = second.communicate(timeout=DEADLINE_SECONDS)
    told = [event_of(line) for line in (tmp_path / "second.jsonl").read_text().splitlines()]
    assert second.returncode == 0, told[-5:]
    assert [event["step"] for event in told if event["event"] == "training goes on"] == [int(kept.split("/")[-2])]
    # The one line there, whatever libraries print.
    assert (json.loads(stdout)["status"], json.loads(stdout)["digest"]) == ("built", digest)
    assert not [key for key in training_of(bucket) if "/resume/" in key]
