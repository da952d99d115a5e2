from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

from tests.processes import Child, status_of, wait_until
from xmas_job.storage.owner import Owner, this_process


def test_living_process_is_not_dead() -> None:
    assert this_process().pid == os.getpid()
    assert not this_process().is_dead()


def _wait_for_ever(pipe: int) -> None:
    os.read(pipe, 1)


def test_owner_survives_the_way_through_json() -> None:
    assert Owner(**this_process().to_json()) == this_process()


def test_killed_process_is_dead(start: Callable[..., Child]) -> None:
    child = start(this_process)
    owner = child.result()
    assert owner.pid == child.pid
    wait_until(owner.is_dead, "the process to be known as dead")


def test_zombie_is_dead() -> None:
    """Killed, but its parent has not asked for its exit code yet."""
    code = "from xmas_job.storage.owner import this_process; print(this_process().started, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        started = process.stdout.readline().strip()
        owner = replace(this_process(), pid=process.pid, started=started)
        assert not owner.is_dead()
        process.kill()
        wait_until(owner.is_dead, "the zombie to be known as dead")
        assert process.returncode is None


def test_stopped_process_is_not_dead(start: Callable[..., Child]) -> None:
    child = start(_wait_for_ever, os.pipe()[0])
    child.stop()
    assert not replace(this_process(), pid=child.pid, started=status_of(child.pid)[19]).is_dead()


def test_later_process_with_the_same_pid_is_another_one() -> None:
    assert replace(this_process(), started="1").is_dead()


def test_process_of_another_machine_is_never_called_dead() -> None:
    """Its pid means nothing here."""
    assert not replace(this_process(), process_table="another boot/pid:[1]", pid=2**22 + 1).is_dead()
