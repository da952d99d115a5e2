"""Who this process is, so that another one on the same machine can tell whether it still lives.

Owns the identity of a process. A verdict is given only where the process table is the same; elsewhere a lease has
to stand still for its time to live before it is taken over.
"""

from __future__ import annotations

import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Owner:
    """A process, named so that no other one, before or after it, has the same name."""

    host: str
    process_table: str
    """Boot id and process namespace: equal only where a pid means the same process."""
    pid: int
    started: str
    """Start time in clock ticks since boot; tells a process from a later one with the same pid."""

    def to_json(self) -> dict[str, str | int]:
        """As stored in a lease."""
        return asdict(self)

    def is_dead(self) -> bool:
        """True only if this machine can know that the process is gone."""
        return self.process_table == _process_table() and _started(self.pid) != self.started


def this_process() -> Owner:
    """The owner that stands for the calling process."""
    pid = os.getpid()
    return Owner(socket.gethostname(), _process_table(), pid, _started(pid))


def _process_table() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"unknown/{socket.gethostname()}/{os.getpid()}"  # no /proc: never equal, so never called dead


def _started(pid: int) -> str:
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    fields = status.rpartition(")")[2].split()  # the command's name may hold anything, also spaces
    state, start_ticks = fields[0], fields[19]
    return "" if state in "ZX" else start_ticks
