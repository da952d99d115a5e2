"""Real processes for tests: forked from a clean server, watched with deadlines, never left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

DEADLINE_SECONDS = 180.0

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["pytest", "tests.toy_line", "xmas_job.storage.s3"])


class Child:
    """A process that calls `function(*arguments)`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._receiver, sender = CONTEXT.Pipe(duplex=False)
        self._process = CONTEXT.Process(target=_call, args=(sender, dict(os.environ), function, arguments), daemon=True)
        self._process.start()
        sender.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def result(self) -> Any:
        """What the function returned; raises what it raised."""
        assert self._receiver.poll(DEADLINE_SECONDS), f"process {self.pid} did not end in {DEADLINE_SECONDS} s"
        value = self._receiver.recv()
        self._process.join(DEADLINE_SECONDS)
        if isinstance(value, BaseException):
            raise value
        return value

    def kill(self) -> None:
        """As `kill -9`."""
        self._process.kill()
        self._process.join(DEADLINE_SECONDS)

    def stop(self) -> None:
        """As `kill -STOP`; returns once the process stands still."""
        os.kill(self.pid, signal.SIGSTOP)
        wait_until(lambda: status_of(self.pid)[0] == "T", "the process to stand still")

    def resume(self) -> None:
        """As `kill -CONT`."""
        os.kill(self.pid, signal.SIGCONT)


def wait_until(condition: Callable[[], object], what: str, deadline_seconds: float = DEADLINE_SECONDS) -> None:
    """Return as soon as the condition holds."""
    end = time.monotonic() + deadline_seconds
    while not condition():
        assert time.monotonic() < end, f"waited {deadline_seconds} s in vain for {what}"
        time.sleep(0.005)


def _call(
    sender: Connection, variables: dict[str, str], function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    os.environ.clear()  # the fork server has those of the moment it was started
    os.environ.update(variables)
    try:
        sender.send(function(*arguments))
    except Exception as error:  # noqa: BLE001 (the test gets it)
        sender.send(error)


def status_of(pid: int) -> list[str]:
    """Fields of /proc/<pid>/stat after the command's name: the state first, the start time at 19."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
