"""Local scratch folders: one a stage attempt, removed at its end, or by the next process if its owner died.

A folder is locked while its owner lives. The kernel drops the lock at death, and it holds between containers that
share the disk, where a process number would mean another process.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "attempt-"


@contextmanager
def scratch_folder(root: Path) -> Iterator[Path]:
    """An empty local folder of this process; those of processes that died are removed first."""
    root.mkdir(parents=True, exist_ok=True)
    for folder in root.glob(f"{PREFIX}*"):
        _remove_if_left(folder)
    # Locked before it bears a name that others look at.
    unnamed = Path(tempfile.mkdtemp(prefix="new-", dir=root))
    descriptor = os.open(unnamed, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    folder = unnamed.rename(root / f"{PREFIX}{unnamed.name.removeprefix('new-')}")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _remove_if_left(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return  # its owner has just removed it
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass  # its owner lives
    finally:
        os.close(descriptor)
