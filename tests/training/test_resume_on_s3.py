"""Interrupted trainings with states in a bucket: another machine, whose disk is empty, ends with the same bytes."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.processes import Child
from tests.s3_servers import S3Server
from tests.training.toy import files_of, ignore_progress, train_toy_proxy
from xmas_job.errors import TryAgainError
from xmas_job.storage.output import Output
from xmas_job.storage.roots import open_store
from xmas_job.training.launch import stop_requests
from xmas_job.training.resume import Layout, ResumeStates
from xmas_job.training.settings import Execution

ADDRESS = "artifacts/train_proxy/00"


def attempt(root: str, machine: Path, number: int, on_progress: Any = ignore_progress, **changes: Any) -> int:
    """One attempt on a machine with this disk; the step that it went on from."""
    torch.set_num_threads(1)
    os.environ["XMAS_SCRATCH"] = str(machine / "cache")
    (machine / "scratch").mkdir(parents=True)
    store = open_store(root)
    states = ResumeStates(store, Output(store, ADDRESS, f"attempts/{number}", machine / "scratch"))
    start = states.newest(Layout())
    execution = Execution(states=states, start=start, **changes)
    train_toy_proxy(machine.parent / "checkpoints", execution, on_progress)
    return start.step if start else 0


def killed_at(root: str, machine: Path, num_seen: int) -> None:
    """`kill -9` once so many examples are seen; a state is kept after every step."""

    def kill(done: int, _total: int) -> None:
        if done >= num_seen:
            os.kill(os.getpid(), signal.SIGKILL)

    attempt(root, machine, 1, kill, save_steps=1)


@pytest.fixture
def root(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in {**moto.variables, "XMAS_SCRATCH": ""}.items():
        monkeypatch.setenv(name, value)
    return moto.new_root()


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, bytes]:
    """Checkpoints of an undisturbed training."""
    return files_of(train_toy_proxy(tmp_path / "undisturbed").directory)


def test_killed_training_goes_on_from_the_bucket(
    root: str, expected: dict[str, bytes], tmp_path: Path, start: Callable[..., Child]
) -> None:
    with pytest.raises(EOFError):  # it tells nothing any more
        start(killed_at, root, tmp_path / "first", 32).result()
    shutil.rmtree(tmp_path / "first")
    assert attempt(root, tmp_path / "second", 2) == 3
    assert files_of(tmp_path / "checkpoints") == expected


def test_stopped_training_goes_on_from_the_bucket(root: str, expected: dict[str, bytes], tmp_path: Path) -> None:
    def terminate(done: int, _total: int) -> None:
        if done == 24:
            os.kill(os.getpid(), signal.SIGTERM)

    with stop_requests() as should_stop, pytest.raises(TryAgainError, match="after optimizer step 3"):
        attempt(root, tmp_path / "first", 1, terminate, should_stop=should_stop)
    shutil.rmtree(tmp_path / "first")
    assert attempt(root, tmp_path / "second", 2) == 3
    assert files_of(tmp_path / "checkpoints") == expected
