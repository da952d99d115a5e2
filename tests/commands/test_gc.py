"""Clearing the store: what counts stays, what runs is never touched, and half a clearing harms nothing."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes import wait_until
from tests.small_world import World
from xmas_job.commands import channel, gc, presence
from xmas_job.commands.gc import Keep, clear
from xmas_job.commands.recompute import recompute_selection
from xmas_job.commands.resolve import start_run
from xmas_job.commands.run import run_line
from xmas_job.commands.stage import run_stage
from xmas_job.commands.verify import verify_selection
from xmas_job.errors import TryAgainError, UsageError
from xmas_job.storage import channels
from xmas_job.storage.journal import presence_key, run_key
from xmas_job.storage.lease import acquire, newest_lease, try_acquire
from xmas_job.storage.sealed import MANIFEST
from xmas_job.storage.store import Store

NOTHING_ELSE = Keep(runs=0, moves=1, hours=0.0)
BUDGETS = ("50%", "25%")


@pytest.fixture(scope="module")
def two_runs(_finished: Any, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("two runs") / "world"
    shutil.copytree(_finished[0].folder, folder)
    run(World(folder), "second", BUDGETS[1])
    return World(folder)


@pytest.fixture
def world(two_runs: World, tmp_path: Path) -> World:
    """Two runs: `first` with 50%, then `second` with 25%, where the channel points. Nothing is at work."""
    shutil.copytree(two_runs.folder, tmp_path / "world")
    return World(tmp_path / "world")


def run(world: World, run_id: str, budget: str) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in world.variables.items():
            patch.setenv(name, value)
        return dict(run_line(world.environment, world.config(publish={"budget": budget}), run_id, lambda *_: None))


def keys(world: World) -> set[str]:
    return {entry.key for entry in world.store.list("") if not entry.key.startswith("clearing/")}


def names(result: Any, kind: str) -> set[str]:
    return {item["name"] for item in result["items"] if item["kind"] == kind}


def addresses(world: World, run_id: str) -> dict[str, str]:
    outcomes = [json.loads(world.store.read(entry.key)) for entry in world.store.list(f"runs/{run_id}/stages")]
    return {outcome["stage"]: outcome["address"] for outcome in outcomes}


def grow_old(world: World, run_id: str) -> None:
    """As if the run's last process had started a week ago, by the store's clock."""
    for key in (presence_key(run_id), run_key(run_id)):
        path = world.folder / "store" / key
        os.utime(path, (time.time() - 7 * 86_400,) * 2)


def test_what_the_channel_reaches_stays_and_the_rest_goes(world: World) -> None:
    first, second = addresses(world, "first"), addresses(world, "second")
    only_first = set(first.values()) - set(second.values())
    assert {address.split("/")[1] for address in only_first} == {"publish", "report"}
    before = keys(world)
    result = clear(world.environment, NOTHING_ELSE, delete=True)
    assert names(result, "artifact") == only_first
    gone = before - keys(world)
    assert {"/".join(key.split("/")[:3]) for key in gone} == only_first
    assert result["bytes"] > 0
    assert {stage["status"] for stage in run(world, "third", BUDGETS[1])["stages"]} == {"hit"}
    built = [s["stage"] for s in run(world, "fourth", BUDGETS[0])["stages"] if s["status"] == "built"]
    assert built == ["publish:subset", "report"]


def test_without_delete_nothing_goes(world: World) -> None:
    before = keys(world)
    shown = clear(world.environment, NOTHING_ELSE, delete=False)
    assert keys(world) == before
    assert shown["deleted"] is False
    assert shown["items"] == clear(world.environment, NOTHING_ELSE, delete=True)["items"] != []


@pytest.mark.parametrize(
    "keep", [Keep(runs=2, moves=1, hours=0), Keep(runs=0, moves=2, hours=0), Keep(runs=0, moves=1, hours=1)]
)
def test_last_runs_last_moves_and_runs_just_started_keep_what_they_reach(world: World, keep: Keep) -> None:
    assert names(clear(world.environment, keep, delete=True), "artifact") == set()


def test_run_that_rests_long_enough_goes(world: World) -> None:
    grow_old(world, "first")
    keep = Keep(runs=0, moves=1, hours=1)
    assert len(names(clear(world.environment, keep, delete=True), "artifact")) == 2


def test_selections_stay_unless_asked_for(world: World) -> None:
    first = str(json.loads(world.store.read("channels/latest/000000000001.json"))["selection"])
    assert names(clear(world.environment, NOTHING_ELSE, delete=True), "selection") == set()
    verify_selection(world.environment, first)
    keep = Keep(runs=0, moves=1, hours=0, selections=False)
    assert names(clear(world.environment, keep, delete=True), "selection") == {f"selections/{first}"}
    second = channels.current(world.store, "latest")
    assert second is not None
    assert verify_selection(world.environment, second.selection)["num_files"] == 3
    recompute_selection(world.environment, second.selection)


def test_run_at_work_keeps_what_it_may_still_find(world: World) -> None:
    """It has resolved and built nothing yet: of its stages only ingest has a known address."""
    first = addresses(world, "first")
    grow_old(world, "first")
    start_run(world.config(publish={"budget": BUDGETS[0]}, pool={"excluded_uids": ["0" * 32]}), world.store, "new")
    result = clear(world.environment, Keep(runs=0, moves=1, hours=1), delete=True)
    assert names(result, "artifact") == set(), "another pool may give the same ranking, and then these are found"
    assert set(first.values()) <= {"/".join(key.split("/")[:3]) for key in keys(world)}


def test_live_lease_keeps_its_run_and_its_files(world: World) -> None:
    """The run rests by its age, but one of its stages is held: it has been at work for days."""
    first = addresses(world, "first")
    lease = try_acquire(world.store, "artifacts/report/0", 60, {"run": "first", "stage": "report"})
    assert lease is not None
    world.store.put("artifacts/report/0/attempts/1/half.json", b"{}")
    with lease:
        result = clear(world.environment, NOTHING_ELSE, delete=True)
        assert "first" in result["kept_runs"]
        assert result["items"] == []
    result = clear(world.environment, NOTHING_ELSE, delete=True)
    assert names(result, "artifact") == {"artifacts/report/0", first["publish:subset"], first["report"]}


def test_files_of_dead_attempts_go_and_the_artifact_stays(world: World) -> None:
    pool = addresses(world, "second")["pool"]
    kept = {key for key in keys(world) if key.startswith(f"{pool}/")}
    world.store.put(f"{pool}/attempts/7/pool.parquet", b"left by one that was killed")
    result = clear(world.environment, Keep(hours=0), delete=True)
    assert names(result, "attempt") == {f"{pool}/attempts/7"}
    assert {key for key in keys(world) if key.startswith(f"{pool}/")} == kept


def test_attempt_that_ends_well_during_a_clearing_keeps_its_files(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are listed, its record is written, its lease is given back, and only then is the lease looked at."""
    pool = addresses(world, "second")["pool"]
    record = world.store.read(f"{pool}/record.json")
    lease = acquire(world.store, pool, ttl_seconds=60, timeout_seconds=0, is_done=lambda: False, work={})
    assert lease is not None
    for entry in list(world.store.list(f"{pool}/attempts/1")):
        its_own = entry.key.replace("/attempts/1/", f"/attempts/{lease.number}/")
        world.store.put(its_own, world.store.read(entry.key))
    world.store.delete(f"{pool}/record.json")
    look = gc.read_lease

    def end_then_look(store: Store, prefix: str, number: int) -> Any:
        if prefix == pool and not store.exists(f"{pool}/record.json"):
            store.put(f"{pool}/record.json", record.replace(b"attempts/1/", f"attempts/{lease.number}/".encode()))
            lease.__exit__(None, None, None)
        return look(store, prefix, number)

    monkeypatch.setattr(gc, "read_lease", end_then_look)
    with lease:
        result = clear(world.environment, Keep(hours=0), delete=True)
    assert names(result, "attempt") == {f"{pool}/attempts/1"}, "which no record names any more"
    assert {stage["status"] for stage in run(world, "third", BUDGETS[1])["stages"]} == {"hit"}


@pytest.mark.parametrize("num_deleted", [0, 1, 2, 3])
def test_half_deleted_artifact_is_not_there_and_is_built_again(world: World, num_deleted: int) -> None:
    address = addresses(world, "second")["select:subset"]
    deleted = iter(range(num_deleted))

    def stop_later() -> None:
        if next(deleted, None) is None:
            raise TryAgainError("killed here.", "")

    with pytest.raises(TryAgainError):
        gc.delete_artifact(world.store, address, stop_later)
    assert world.store.exists(f"{address}/record.json") is (num_deleted == 0)
    result = run(world, "third", BUDGETS[1])
    status = {stage["stage"]: stage["status"] for stage in result["stages"]}
    assert status["select:subset"] == ("hit" if num_deleted == 0 else "built")
    assert status["publish:subset"] == "hit", "the same bytes again"


def test_run_that_starts_during_a_clearing_waits_for_its_end(world: World) -> None:
    lease = acquire(world.store, presence.CLEARING, ttl_seconds=60, timeout_seconds=0, is_done=lambda: False, work={})
    assert lease is not None
    entered = threading.Event()

    def stage() -> None:
        run_stage(world.environment, "second", "pool", None)
        entered.set()

    thread = threading.Thread(target=stage)
    with lease:
        before = (world.folder / "store" / presence_key("second")).stat().st_mtime_ns
        thread.start()
        wait_until(
            lambda: (world.folder / "store" / presence_key("second")).stat().st_mtime_ns != before, "its presence"
        )
        assert not entered.wait(1.5), "it must wait as long as the store is being cleared"
    thread.join(30)
    assert entered.is_set()


def test_clearing_looks_at_the_runs_only_once_it_is_announced(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a run could start unseen, and not see the clearing either."""
    seen: list[bool] = []
    look: Callable[[Store], list[str]] = gc.run_ids

    def watched(store: Store) -> list[str]:
        lease = newest_lease(store, presence.CLEARING)
        seen.append(lease is not None and not lease.is_free)
        return look(store)

    monkeypatch.setattr(gc, "run_ids", watched)
    clear(world.environment, NOTHING_ELSE, delete=True)
    assert seen == [True]


def test_clearing_that_stood_still_deletes_nothing_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xmas_job.storage.lease.Lease.is_sure", property(lambda _: False))
    before = keys(world)
    with pytest.raises(TryAgainError, match="stood still"):
        clear(world.environment, NOTHING_ELSE, delete=True)
    assert keys(world) == before


def test_run_of_another_version_at_work_stops_the_clearing(world: World) -> None:
    raw = json.loads(world.store.read(run_key("first")))
    raw["config"]["setting_of_the_future"] = 1
    world.store.put(run_key("first"), json.dumps(raw).encode())
    with pytest.raises(UsageError, match="run first may be at work under another xmas-job"):
        clear(world.environment, Keep(hours=1), delete=True)
    grow_old(world, "first")
    result = clear(world.environment, Keep(runs=2, hours=1), delete=True)
    assert names(result, "artifact") == set(), "its outcomes still name what it made"


def test_promoted_selection_is_kept(world: World) -> None:
    first = str(json.loads(world.store.read("channels/latest/000000000001.json"))["selection"])
    channel.promote(world.environment, first, "production", "the better one")
    assert names(clear(world.environment, NOTHING_ELSE, delete=True), "artifact") == {
        addresses(world, run_id)["report"] for run_id in ("first",)
    }
    recompute_selection(world.environment, first)


def test_a_training_that_is_to_go_on_keeps_its_attempts_until_it_is_committed(world: World) -> None:
    address = addresses(world, "second")["select:subset"]
    record = world.store.read(f"{address}/record.json")
    state = [f"{address}/attempts/1/resume/000000005/{name}" for name in ("optimizer.pt", MANIFEST)]
    for key in state:
        world.store.put(key, b"{}")
    world.store.delete(f"{address}/record.json")
    kept = Keep(runs=10, hours=1e6)
    clear(world.environment, kept, delete=True)
    assert set(state) <= keys(world)
    world.store.put(f"{address}/record.json", record)
    clear(world.environment, kept, delete=True)
    assert not set(state) & keys(world)
