"""One `xmas-job` process: its log events on the way, its result or its error as our own error at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from xmas_job import errors
from xmas_job.fingerprint import Json

EXIT_WITH_PARENT = "XMAS_EXIT_WITH_PARENT"
"""Set for processes whose standard input is a pipe held by their parent."""
SIGNALS = 128
"""An exit code above this is a signal's."""


def run_stage_process(run_id: str, node_id: str, on_event: Callable[[str, dict[str, Json]], None] | None) -> None:
    """Run the stage in a process of its own; it ends when this process ends.

    Args:
        run_id: of a started run.
        node_id: the stage.
        on_event: called with the stage and each of its log events; None passes the lines on to stderr.

    Raises:
        XmasError: as `run_process`.
    """
    run_process(("stage", node_id, "--run", run_id), on_event and partial(on_event, node_id))


def run_process(arguments: Sequence[str], on_event: Callable[[dict[str, Json]], None] | None = None) -> dict[str, Json]:
    """Run `xmas-job ARGUMENTS` in a process of its own, which ends when this process ends; the object that it printed.

    Args:
        arguments: of a command that is for launchers: resolve, reuse or stage.
        on_event: called with each of its log events; None passes the lines on to stderr.

    Raises:
        XmasError: what the command raised, or TryAgainError if a signal ended it.
    """
    command = [sys.executable, "-m", "xmas_job.cli", *arguments]
    environment = {**os.environ, EXIT_WITH_PARENT: "1", "XMAS_LOG_FORMAT": "json"}
    tail: list[str] = []
    # What it prints goes into a file: a full pipe, read only at the end, would stop it.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as printed:
        with subprocess.Popen(  # noqa: S603 (our own interpreter and arguments)
            command, env=environment, stdin=subprocess.PIPE, stdout=printed, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            for line in process.stderr:
                tail = [*tail[-19:], line]
                _forward(line, on_event)
        printed.seek(0)
        result = printed.read()
    if process.returncode:
        raise error_of_process(" ".join(arguments[:2]), process.returncode, result, "".join(tail))
    return result_of_process(result)


def result_of_process(printed: str) -> dict[str, Json]:
    """The object in the last line that a successful process printed."""
    found: dict[str, Json] = json.loads(printed.strip().splitlines()[-1])
    return found


def exit_with_parent() -> bool:
    """End this process at once when its standard input closes, if it has a parent that asked for that.

    As after a kill, nothing half-done is visible, and the next try goes on from what was finished.
    """
    has_parent = bool(os.environ.get(EXIT_WITH_PARENT))
    if has_parent:
        threading.Thread(target=_wait_for_end_of_input, name="exit-with-parent", daemon=True).start()
    return has_parent


def _wait_for_end_of_input() -> None:
    # Not through sys.stdin: its lock would be held while the interpreter shuts down.
    while os.read(0, 4096):
        pass
    os._exit(errors.TryAgainError.exit_code)


def event_of(line: str) -> dict[str, Json]:
    """A line of a process's log as an event; what a library wrote becomes a warning."""
    try:
        return dict(json.loads(line))
    except (TypeError, ValueError):
        return {"event": line.rstrip(), "level": "warning"}


def _forward(line: str, on_event: Callable[[dict[str, Json]], None] | None) -> None:
    if on_event is None:
        sys.stderr.write(line)
    else:
        on_event(event_of(line))


def error_of_process(name: str, code: int, result: str, tail: str) -> errors.XmasError:
    """What a process that failed says for itself, in the last line that it printed.

    Args:
        name: what was run.
        code: its exit code, not 0; minus the signal that ended it, or 128 + the signal, as containers tell it.
        result: what it printed on stdout.
        tail: the end of its log, for a defect that it does not explain.
    """
    if code < 0 or code > SIGNALS:
        sent = signal.Signals(-code if code < 0 else code - SIGNALS).name
        return errors.TryAgainError(
            f"{name} was ended by {sent}" + (" (out of memory?)." if sent == "SIGKILL" else "."),
            "Run the same command again: what was finished is kept.",
        )
    try:
        found: dict[str, Any] = json.loads(result.strip().splitlines()[-1])
        return errors.error_of(code)(found["error"], found["remedy"])
    except (IndexError, KeyError, ValueError):
        return errors.XmasError(f"{name} failed with exit code {code}.\n{tail}", "This is a defect; report it.")
