"""The whole line on an S3 store, through the command line: the same bytes as in a folder."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.line import DEADLINE_SECONDS, World
from tests.s3_servers import S3Server
from xmas_job.storage.roots import open_store
from xmas_job.storage.store import Store


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
