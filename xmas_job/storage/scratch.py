"""Local scratch folders: one a stage attempt, removed at its end, or by the next process if its owner died."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from xmas_job.storage.owner import Owner, this_process


@contextmanager
def scratch_folder(root: Path) -> Iterator[Path]:
    """An empty local folder of this process; those of processes that died are removed first."""
    root.mkdir(parents=True, exist_ok=True)
    for folder in root.iterdir():
        if (owner := _scratch_owner(folder)) and owner.is_dead():
            shutil.rmtree(folder, ignore_errors=True)
    me = this_process()
    folder = root / f"{me.pid}-{me.started}-{time.monotonic_ns()}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _scratch_owner(folder: Path) -> Owner | None:
    pid, _, rest = folder.name.partition("-")
    started, _, serial = rest.partition("-")
    return replace(this_process(), pid=int(pid), started=started) if pid.isdigit() and serial.isdigit() else None
