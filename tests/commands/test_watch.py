"""The rules on real runs: what failed, what stands still and what looks odd is told, and the run goes its own way."""

from __future__ import annotations

import os
from typing import Any

import pytest

pytest.importorskip("apprise", reason="alerts come with the extra `airflow`: make airflow")

from tests.alerts.receiver import Receiver
from tests.small_world import World
from xmas_job.commands.resolve import read_run, start_run
from xmas_job.commands.run import run_line
from xmas_job.commands.watch import watch
from xmas_job.environment import Environment
from xmas_job.errors import UsageError
from xmas_job.runner import Runner
from xmas_job.storage.lease import lease_key, try_acquire


@pytest.fixture
def environment(world: World, receiver: Receiver) -> Environment:
    return world.environment.model_copy(update={"alert_urls": receiver.url})


def looked(environment: Environment) -> list[tuple[Any, ...]]:
    found: Any = watch(environment, 10)["alerts"]
    return [(alert["rule"], alert["run"], alert["stage"], alert["told"]) for alert in found]


def test_unreachable_budget_is_told_once_and_fails_the_run_as_ever(
    environment: Environment, world: World, receiver: Receiver
) -> None:
    config = world.config(publish={"budget": "13"})
    for _ in range(2):
        with pytest.raises(UsageError, match="budget 13 is above the pool"):
            run_line(environment, config, "r", None)
    (alert,) = receiver.got
    assert alert["title"] == "xmas_job: the budget of run r is above its pool"
    lines = alert["message"].splitlines()
    assert "Ask for at most 12" in lines[0]
    assert "Stage: pool" in lines
    assert lines[-1] == f"xmas-job run --recipe {world.folder}/store/runs/r/recipe.yaml"
    assert looked(environment) == [("budget_unreachable", "r", "pool", False)]


def test_delivery_that_fails_hides_nothing(environment: Environment, world: World, receiver: Receiver) -> None:
    receiver.status = 500
    with pytest.raises(UsageError, match="budget 13 is above the pool"):
        run_line(environment, world.config(publish={"budget": "13"}), "r", None)
    assert not list(world.store.list("alerts/r"))


def test_other_failures_are_told_by_their_stage(environment: Environment, world: World, receiver: Receiver) -> None:
    (world.folder / "store/landing/demo/v1/data.json").write_text("no rows")
    with pytest.raises(Exception, match=r"data\.json"):
        run_line(environment, world.config(), "r", None)
    (alert,) = receiver.got
    assert alert["title"] == "xmas_job: ingest:demo@v1 failed in run r"


def test_bad_rows_below_the_gate_are_told_and_linked_to_the_report(
    environment: Environment, world: World, receiver: Receiver
) -> None:
    (world.folder / "store/landing/demo/v1/images/0.png").write_bytes(b"no image")
    result = run_line(environment, world.config(ingest={"max_quarantine_fraction": 0.5}), "r", None)
    assert result["status"] == "done"
    (alert,) = receiver.got
    assert alert["title"] == "xmas_job: many bad rows in ingest:demo@v1 of run r"
    assert "1 of 12 rows were quarantined (8.3%)" in alert["message"]
    assert f"Look: {result['report']}" in alert["message"]
    assert looked(environment) == [("quarantine_spike", "r", "ingest:demo@v1", False)]
    assert len(receiver.got) == 1


def test_heartbeat_that_stands_still_is_told_with_the_command(
    environment: Environment, world: World, receiver: Receiver
) -> None:
    start_run(world.config(), world.store, "r")
    runner = Runner(world.store, environment, read_run(world.store, "r"))
    prefix = runner.address(runner.run.nodes["ingest:demo@v1"])
    lease = try_acquire(world.store, prefix, 60.0, {"run": "r", "stage": "ingest:demo@v1"})
    assert lease is not None
    assert looked(environment) == []
    path = world.folder / "store" / lease_key(prefix, lease.number)
    then = path.stat().st_mtime - 301
    os.utime(path, (then, then))
    assert looked(environment) == [("stale_heartbeat", "r", "ingest:demo@v1", True)]
    assert looked(environment) == [("stale_heartbeat", "r", "ingest:demo@v1", False)]
    (alert,) = receiver.got
    assert f"pid {os.getpid()}" in alert["message"]
    assert alert["message"].endswith("xmas-job stage ingest:demo@v1 --run r")
    with lease:
        pass  # given back
    os.utime(path, (then, then))
    assert looked(environment) == []


def test_lease_of_another_run_is_not_told_twice(environment: Environment, world: World) -> None:
    for run in ("r", "other"):
        start_run(world.config(), world.store, run)
    runner = Runner(world.store, environment, read_run(world.store, "r"))
    prefix = runner.address(runner.run.nodes["ingest:demo@v1"])
    lease = try_acquire(world.store, prefix, 60.0, {"run": "r", "stage": "ingest:demo@v1"})
    assert lease is not None
    os.utime(world.folder / "store" / lease_key(prefix, lease.number), (0, 0))
    assert [found[1] for found in looked(environment)] == ["r"]


def test_damaged_run_does_not_hide_the_others(environment: Environment, world: World, receiver: Receiver) -> None:
    start_run(world.config(), world.store, "damaged")
    with pytest.raises(UsageError):
        run_line(environment, world.config(publish={"budget": "13"}), "r", None)
    run = world.folder / "store/runs/damaged/run.json"
    run.write_text(run.read_text().replace('"sources"', '"sauces"'))
    assert looked(environment) == [("budget_unreachable", "r", "pool", False)]


def test_finished_run_has_nothing_to_tell(finished: World) -> None:
    assert [alert for alert in looked(finished.environment) if alert[1] == "first"] == []
