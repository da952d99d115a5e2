"""The store in a folder. Create-only by hard link, so that it is atomic between processes and after a crash."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from xmas_job.storage.scratch import scratch_folder
from xmas_job.storage.store import Entry, key_parts

UNFINISHED = ".unfinished"
"""Folder of files being written, on the store's own file system; no reader ever sees them."""


class LocalStore:
    """Keys are paths under `root`. Every write becomes visible whole or not at all."""

    def __init__(self, root: Path) -> None:
        self._root = root.expanduser().absolute()

    @property
    def uri(self) -> str:
        """Root as a file:// URI."""
        return self._root.as_uri()

    def read(self, key: str) -> bytes:
        """All bytes of `key`. Raises FileNotFoundError."""
        return self._path(key).read_bytes()

    def read_known(self, key: str, sha256: str) -> bytes:  # noqa: ARG002 (nothing is nearer than the file itself)
        """As `read`."""
        return self.read(key)

    def open(self, key: str) -> BinaryIO:
        """A seekable stream over `key`. Raises FileNotFoundError."""
        return self._path(key).open("rb")

    def create(self, key: str, data: bytes) -> bool:
        """Write `key` only if it is not there; False if it was. A link fails where the name exists."""
        path = self._path(key)
        with self._unfinished(data) as written:
            try:
                _in_its_folder(path, lambda: os.link(written, path))
            except FileExistsError:
                return False
        _sync(path.parent)
        return True

    def put(self, key: str, data: bytes) -> None:
        """Write `key`, replacing what was there."""
        with self._unfinished(data) as written:
            self._make_visible(written, key)

    def upload(self, path: Path, key: str) -> None:
        """Move a finished local file to `key`; copies when it lies on another file system."""
        with self._unfinished() as written:
            shutil.move(path, written)
            self._make_visible(written, key)

    def copy(self, source: str, target: str) -> None:
        """Copy the object `source` to `target`. Raises FileNotFoundError."""
        with self._unfinished() as written:
            shutil.copyfile(self._path(source), written)
            self._make_visible(written, target)

    def exists(self, key: str) -> bool:
        """Whether `key` is there."""
        return self._path(key).is_file()

    def size(self, key: str) -> int | None:
        """Bytes of `key`, or None if it is not there."""
        try:
            return self._path(key).stat().st_size
        except FileNotFoundError:
            return None

    def delete(self, key: str) -> None:
        """Remove `key`, and folders that are empty then; nothing happens if it is not there."""
        path = self._path(key)
        path.unlink(missing_ok=True)
        for folder in path.parents:
            if folder == self._root or not _remove_if_empty(folder):
                break

    def list(self, prefix: str) -> Iterator[Entry]:
        """Every object under the folder `prefix`, in key order. The etag is the time of the last change."""
        folder = self._path(prefix) if prefix else self._root
        found: dict[str, Path] = {}
        for parent, folders, names in os.walk(folder):  # passes over folders that are gone by then
            if Path(parent) == self._root and UNFINISHED in folders:
                folders.remove(UNFINISHED)
            found |= {path.relative_to(self._root).as_posix(): path for name in names if (path := Path(parent, name))}
        for key, path in sorted(found.items()):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue  # deleted since
            yield Entry(key, status.st_size, f"{status.st_mtime_ns:x}")

    def folders(self, prefix: str) -> Iterator[str]:
        """Names of the folders right under the folder `prefix`, in order."""
        folder = self._path(prefix) if prefix else self._root
        if folder.is_dir():
            names = {path.name for path in folder.iterdir() if path.is_dir()}
            yield from sorted(names - {UNFINISHED} if not prefix else names)

    def written_at(self, key: str) -> float | None:
        """Time of the last change, as the file system gives it."""
        try:
            return self._path(key).stat().st_mtime
        except FileNotFoundError:
            return None

    def local_folder(self, prefix: str) -> Path:
        """The folder itself: nothing is copied."""
        return self._path(prefix)

    def own_folder(self, prefix: str) -> Path:
        """The folder itself."""
        return self._path(prefix)

    def _path(self, key: str) -> Path:
        return self._root.joinpath(*key_parts(key))

    @contextmanager
    def _unfinished(self, data: bytes = b"") -> Iterator[Path]:
        """A file nobody sees yet, holding `data`; gone when the block ends, unless it was moved away.

        What writers left that were killed goes with the next write.
        """
        with scratch_folder(self._root / UNFINISHED) as folder:
            path = folder / "data"
            path.write_bytes(data)
            _sync(path)
            yield path

    def _make_visible(self, written: Path, key: str) -> None:
        """Make a written file durable, then visible under `key`."""
        _sync(written)
        target = self._path(key)
        _in_its_folder(target, lambda: written.replace(target))
        _sync(target.parent)


def _in_its_folder(path: Path, place: Callable[[], object]) -> None:
    """Make the folder of `path` and call `place`; again if somebody removed the empty folder in between."""
    for _ in range(10):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            place()
        except FileNotFoundError:
            continue
        return
    place()


def _remove_if_empty(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False  # not empty, or gone
    return True


def _sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
