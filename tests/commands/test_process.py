"""A stage in a process of its own: its events, its errors, and its end."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.processes import Child, wait_until
from tests.small_world import World
from xmas_job.commands.process import run_stage_process
from xmas_job.commands.resolve import start_run
from xmas_job.errors import BadDataError, MissingInputError, TryAgainError, UsageError, XmasError
from xmas_job.runner import Runner
from xmas_job.storage.lease import Lease, try_acquire

INGEST = "ingest:demo@v1"


@pytest.fixture
def started(world: World) -> World:
    start_run(world.config(), world.store, "r")
    return world


def events_of(world: World, stage: str = INGEST) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    run_stage_process("r", stage, lambda name, event: events.append({"of": name, **event}))
    return events


def hold(world: World) -> Lease:
    """The lease of ingest, so that its process waits for as long as a test needs."""
    runner = Runner(world.store, world.environment, start_run(world.config(), world.store, "r"))
    lease = try_acquire(world.store, runner.address(runner.run.nodes[INGEST]), 60)
    assert lease is not None
    return lease


def stage_processes(of: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(of).children(recursive=True) if "xmas_job.cli" in child.cmdline()]


def is_waiting(process: psutil.Process) -> bool:
    """Its guard against a lost parent runs, and it looks for the lease again and again."""
    return process.num_threads() > 1 and process.status() == psutil.STATUS_SLEEPING


def test_events_arrive_with_their_stage(started: World) -> None:
    events = events_of(started)
    assert [event["event"] for event in events] == ["stage started", "progress", "stage done"]
    assert {event["of"] for event in events} == {INGEST}
    assert events[-1]["status"] == "built"


def test_lines_pass_through_to_stderr_without_a_listener(started: World, capsys: pytest.CaptureFixture[str]) -> None:
    run_stage_process("r", INGEST, None)
    captured = capsys.readouterr()
    assert [json.loads(line)["event"] for line in captured.err.splitlines()][-1] == "stage done"
    assert captured.out == ""


def test_error_of_the_stage_is_raised_here_whole(started: World) -> None:
    (started.folder / "store/landing/demo/v1/data.json").write_text("[]")
    events: list[Any] = []
    with pytest.raises(UsageError) as caught:
        run_stage_process("r", INGEST, lambda _stage, event: events.append(event))
    assert [event["event"] for event in events] == ["stage started", "stage failed"]
    assert caught.value.message.endswith("landing/demo/v1 has changed since the run started.")
    assert caught.value.remedy == "Start a new run, or land a new version."


def test_missing_input_is_raised_here_with_its_command(started: World) -> None:
    with pytest.raises(UsageError) as caught:
        events_of(started, "pool")
    assert caught.value.exit_code == MissingInputError.exit_code
    assert caught.value.remedy == f"Build it: xmas-job stage {INGEST} --run r"


def test_defect_keeps_its_trace(started: World) -> None:
    record = started.folder / "store/runs/r/run.json"
    started_with = json.loads(record.read_text())
    record.write_text(json.dumps({**started_with, "sources": {}}))
    with pytest.raises(XmasError, match="KeyError: 'landing:demo@v1'") as caught:
        events_of(started)
    assert caught.value.exit_code == 1
    assert "report it" in caught.value.remedy


def test_killed_process_asks_to_try_again(started: World) -> None:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            run_stage_process("r", INGEST, lambda _stage, _event: None)
        except TryAgainError as error:
            raised.append(error)

    with hold(started):
        thread = threading.Thread(target=run)
        thread.start()
        wait_until(lambda: stage_processes(os.getpid()), "the stage's process")
        stage_processes(os.getpid())[0].kill()
        thread.join(60)
    (error,) = raised
    assert isinstance(error, TryAgainError)
    assert error.message == f"stage {INGEST} was ended by SIGKILL (out of memory?)."


def _run_with(variables: dict[str, str]) -> None:
    os.environ.update(variables)
    run_stage_process("r", INGEST, lambda _stage, _event: None)


def test_process_ends_when_its_parent_is_killed(started: World, start: Callable[..., Child]) -> None:
    with hold(started):
        parent = start(_run_with, started.variables)
        wait_until(lambda: stage_processes(parent.pid), "the stage's process")
        (orphan,) = stage_processes(parent.pid)
        wait_until(lambda: is_waiting(orphan), "the stage to wait for its lease")
        parent.kill()
        wait_until(lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE, "the orphan to end", 20)
    assert list(started.store.list("artifacts/ingest/*/record.json")) == []


def test_noise_of_libraries_neither_stops_nor_confuses(
    started: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More on stdout than a pipe holds, and lines on stderr that are JSON but no events."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nprint('x' * 200_000)\nprint('5\\nnull\\n\"text\"\\nnot json', file=sys.stderr)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    noise = [event["event"] for event in events_of(started) if event["level"] == "warning"]
    assert noise == ["5", "null", '"text"', "not json"]
    (started.folder / "store/landing/demo/v1/data.json").write_text("[]")
    start_run(started.config(), started.store, "s")
    with pytest.raises(BadDataError, match="has no rows"):
        run_stage_process("s", INGEST, lambda _stage, _event: None)
