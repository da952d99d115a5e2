"""What runs, where, how far, what failed: read from the store while real processes are at work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Child, wait_until
from tests.small_world import World
from tests.toy_line import Control, run_stage, toy_runner
from xmas_job.commands import status
from xmas_job.commands.resolve import read_run, start_run
from xmas_job.commands.stage import run_stage as run_real_stage
from xmas_job.commands.status import status_of_run, status_of_runs
from xmas_job.errors import BadDataError
from xmas_job.runner import Runner
from xmas_job.storage.lease import lease_key, try_acquire

Start = Callable[..., Child]


def look(folder: Path) -> dict[str, Any]:
    return {stage["stage"]: stage for stage in status._look(toy_runner(folder))["stages"]}


def test_finished_run_is_done(finished: World) -> None:
    result: Any = status_of_run(finished.environment, "first", watch=True)
    assert (result["state"], result["done"], result["failed"]) == ("done", [5, 5], None)
    assert {stage["state"] for stage in result["stages"]} == {"done"}
    listed: Any = status_of_runs(finished.environment, 1000)  # other tests start runs in this world
    (state,) = [run["state"] for run in listed["runs"] if run["run"] == "first"]
    assert state == "done"


def test_started_run_waits(world: World) -> None:
    start_run(world.config(), world.store, "r")
    listed: Any = status_of_runs(world.environment, 5)
    (run,) = listed["runs"]
    assert (run["state"], run["done"], run["at_work"]) == ("not at work", [0, 5], [])


def test_stage_at_work_shows_who_and_how_far(tmp_path: Path, start: Start) -> None:
    control = Control(tmp_path / "control")
    control.order("hold numbers")
    child = start(run_stage, tmp_path, "numbers:a", {"lease_ttl_seconds": 1.0})
    wait_until(lambda: look(tmp_path)["numbers:a"].get("leases", [{}])[0].get("beat"), "a heartbeat")
    stage = look(tmp_path)["numbers:a"]
    (lease,) = stage["leases"]
    assert stage["state"] == "at work"
    assert (lease["pid"], lease["attempt"], lease["run"]) == (child.pid, 1, "toy")
    assert lease["heartbeat"] == "owner lives on this machine"
    child.kill()
    died = look(tmp_path)["numbers:a"]
    assert (died["state"], died["leases"][0]["heartbeat"]) == ("died", "owner is dead")
    assert died["retry"] == "xmas-job stage numbers:a --run toy"


def test_failure_is_shown_with_the_command_until_the_stage_is_done(tmp_path: Path) -> None:
    toy_runner(tmp_path).run_stage("numbers:a")
    control = Control(tmp_path / "control")
    control.order("break squares 1")
    with pytest.raises(BadDataError):
        toy_runner(tmp_path).run_stage("squares", partition=1)
    stage = look(tmp_path)["squares"]
    assert (stage["state"], stage["partitions"]) == ("failed", [0, 3])
    failure = stage["failure"]
    assert (failure["error"], failure["remedy"], failure["exit_code"]) == (
        "squares 1 was told to fail.",
        "Lift the order.",
        64,
    )
    assert failure["retry"] == "xmas-job stage squares --run toy --partition 1"
    control.lift("break squares 1")
    toy_runner(tmp_path).run_stage("squares")
    assert look(tmp_path)["squares"]["state"] == "done"


def test_progress_comes_with_the_heartbeat(world: World) -> None:
    start_run(world.config(), world.store, "r")
    run_real_stage(world.environment, "r", "ingest:demo@v1", None)
    (key,) = [e.key for e in world.store.list("artifacts/ingest") if "/lease/" in e.key]
    content = json.loads(world.store.read(key))
    assert content["released"] is True
    assert content["work"] == {"run": "r", "stage": "ingest:demo@v1"}
    assert content["progress"][0] == content["progress"][1] > 0


@pytest.mark.parametrize("moves", [True, False])
def test_heartbeat_of_another_machine_is_alive_only_if_it_is_seen_to_move(
    world: World, monkeypatch: pytest.MonkeyPatch, moves: bool
) -> None:
    start_run(world.config(), world.store, "r")
    run_real_stage(world.environment, "r", "ingest:demo@v1", None)
    runner = _runner(world)
    address = runner.address(runner.run.nodes["pool"])
    lease = try_acquire(world.store, address, 1.0, {"run": "r", "stage": "pool"})
    assert lease is not None
    key = lease_key(address, 1)
    elsewhere = json.loads(world.store.read(key))
    elsewhere["owner"]["process_table"] = "another machine"
    elsewhere["written"] = "1999-01-01T00:00:00+00:00"
    world.store.put(key, json.dumps(elsewhere).encode())

    def beat(_: float) -> None:
        world.store.put(key, json.dumps({**elsewhere, "beat": 1 if moves else 0}).encode())

    monkeypatch.setattr(status.time, "sleep", beat)
    result: Any = status_of_run(world.environment, "r", watch=True)
    (shown,) = [lease for stage in result["stages"] for lease in stage.get("leases", [])]
    assert shown["heartbeat"].startswith("moves" if moves else "stood still")


def _runner(world: World) -> Runner:
    return Runner(world.store, world.environment, read_run(world.store, "r"))
