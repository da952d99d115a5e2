"""Running stages once on a store in a bucket, with many, late and wrongly timed processes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Child, wait_until
from tests.s3_servers import S3Server
from tests.toy_line import Control, run_stage, toy_runner
from xmas_job import runner as runner_module
from xmas_job.storage.roots import open_store
from xmas_job.storage.store import Store

Start = Callable[..., Child]
Settings = dict[str, Any]


@pytest.fixture
def settings(moto: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in {**moto.variables, "XMAS_SCRATCH": str(tmp_path / "scratch")}.items():
        monkeypatch.setenv(name, value)
    return {"store_root": moto.new_root()}


@pytest.fixture
def digest(tmp_path: Path) -> str:
    """Of `numbers`, as a store in a folder gives it."""
    (tmp_path / "local").mkdir()
    return toy_runner(tmp_path / "local").run_stage("numbers:a").artifact.record.digest


def records(store: Store) -> list[bytes]:
    return [store.read(entry.key) for entry in store.list("artifacts") if entry.key.endswith("/record.json")]


def test_eight_processes_build_a_stage_once(tmp_path: Path, start: Start, settings: Settings, digest: str) -> None:
    control = Control(tmp_path / "control")
    control.order("hold numbers")
    children = [start(run_stage, tmp_path, "numbers:a", settings) for _ in range(8)]
    wait_until(lambda: control.count("half-way numbers"), "one of them to take the stage")
    control.lift("hold numbers")
    assert sorted(child.result() for child in children) == [("built", digest), *[("hit", digest)] * 7]
    assert control.count("half-way numbers") == 1


def test_stopped_owner_wakes_up_after_a_takeover_and_harms_nothing(
    tmp_path: Path, start: Start, settings: Settings, digest: str
) -> None:
    settings["lease_ttl_seconds"] = 2.0
    control = Control(tmp_path / "control")
    control.order("hold numbers")
    owner = start(run_stage, tmp_path, "numbers:a", settings)
    wait_until(lambda: control.count("half-way numbers"), "the owner to be half-way")
    owner.stop()
    control.lift("hold numbers")
    twin = start(run_stage, tmp_path, "numbers:a", settings)
    assert twin.result() == ("built", digest)
    store = open_store(settings["store_root"])
    (committed,) = records(store)
    owner.resume()
    assert owner.result() == ("hit", digest)
    assert records(store) == [committed]
    assert b"attempts/2/" in committed
    assert b"attempts/1/" not in committed


def _with_a_wrong_clock(hours: int, *arguments: Any) -> tuple[str, str]:
    """As `run_stage`, on a machine whose wall clock is off."""

    class Wrong(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(hours=hours)

    real = time.time
    time.time = lambda: real() + hours * 3600
    runner_module.datetime = Wrong  # type: ignore[attr-defined]
    return run_stage(*arguments)


@pytest.mark.parametrize("hours", [-7, 7])
def test_clock_that_is_hours_off_neither_steals_a_lease_nor_waits_longer(
    tmp_path: Path, start: Start, settings: Settings, digest: str, hours: int
) -> None:
    """The other machine waits while the heart beats, by its own monotonic clock, and takes over once it stands."""
    settings["lease_ttl_seconds"] = 2.0
    control = Control(tmp_path / "control")
    control.order("hold numbers")
    owner = start(run_stage, tmp_path, "numbers:a", settings)
    wait_until(lambda: control.count("half-way numbers"), "the owner to be half-way")
    other = start(_with_a_wrong_clock, hours, tmp_path, "numbers:a", settings)
    store = open_store(settings["store_root"])
    (lease,) = [entry.key for entry in store.list("artifacts") if "/lease/" in entry.key]
    wait_until(lambda: json.loads(store.read(lease))["beat"] >= 8, "the heart to outlast its time to live")
    assert [entry.key for entry in store.list("artifacts") if "/lease/" in entry.key] == [lease]
    owner.stop()
    control.lift("hold numbers")
    assert other.result() == ("built", digest)
    (record,) = records(store)
    created = datetime.fromisoformat(json.loads(record)["provenance"]["created_at"])
    assert abs(created - datetime.now(UTC) - timedelta(hours=hours)) < timedelta(hours=1), "its clock was right"
    owner.resume()
    assert owner.result() == ("hit", digest)
