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
    # The root is locked meanwhile: nobody looks at a folder between its making and its locking.
    with _opened(root) as root_descriptor:
        fcntl.flock(root_descriptor, fcntl.LOCK_EX)
        for left in root.glob(f"{PREFIX}*"):
            _remove_if_left(left)
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _remove_if_left(folder: Path) -> None:
    try:
        with _opened(folder) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except (FileNotFoundError, BlockingIOError):
        pass  # its owner has just removed it, or lives


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
