"""Local copies of stored bytes, bounded in size, shared by the processes of a machine: what was used last stays.

Owns the folder `cache` in the scratch folder. A copy is named by what it is a copy of, written whole or not at all,
and never changes. Folders given to libraries hold links to copies, so what is in use outlives its eviction.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

from xmas_job.fingerprint import digest_of
from xmas_job.storage.scratch import scratch_folder
from xmas_job.storage.store import Entry

Download = Callable[[Entry, BinaryIO], None]
"""Writes the bytes of an entry into a stream."""

KEPT_AFTER_EVICTION = 0.9
"""Part of the limit that is left after an eviction, so that not every new copy causes one."""


class LocalCopies:
    """Copies under `scratch`/cache, at most about `limit_bytes` of them."""

    def __init__(self, scratch: Path, limit_bytes: int) -> None:
        self._scratch = scratch
        self._copies = scratch / "cache" / "copies"
        self._unfinished = scratch / "cache" / "unfinished"
        self._limit_bytes = limit_bytes
        self._allowance = 0
        """Bytes that this process may add before it looks at the sum again."""
        self._lock = threading.Lock()
        self._own = ExitStack()
        self._own_folder: Path | None = None
        atexit.register(self._own.close)

    def read_known(self, sha256: str, read: Callable[[], bytes]) -> bytes:
        """The bytes with this digest from their copy, else what `read` gives, which is kept if it has the digest."""
        path = self._path(f"sha256-{sha256}")
        with suppress(FileNotFoundError):
            data = path.read_bytes()
            if _sha256(data) == sha256:
                os.utime(path)
                return data
            path.unlink()  # the disk has damaged it
        data = read()
        if _sha256(data) == sha256:
            self._keep(path, len(data), lambda stream: stream.write(data))
        return data

    def folder(self, store: str, entries: Mapping[str, Entry], download: Download) -> Path:
        """A folder with a file for every entry, at its relative path; gone when this process ends.

        Args:
            store: URI that tells this store's entries from another's.
            entries: relative path -> object.
            download: fetches what has no copy yet.
        """
        identity = digest_of([store, *sorted([path, entry.key, entry.etag] for path, entry in entries.items())])
        folder = self._folders() / identity
        if folder.is_dir():
            return folder
        building = folder.with_name(f"{identity}.{os.getpid()}.{threading.get_ident()}")
        building.mkdir()
        for path, entry in entries.items():
            link = building / path
            link.parent.mkdir(parents=True, exist_ok=True)
            self._link(self._path(digest_of([store, entry.key, entry.etag])), link, entry, download)
        with self._lock:
            if not folder.is_dir():
                building.rename(folder)
        return folder

    def _folders(self) -> Path:
        """This process's own folder of folders; its lock tells the others that they are in use."""
        with self._lock:
            if self._own_folder is None:
                self._own_folder = self._own.enter_context(scratch_folder(self._scratch))
            return self._own_folder

    def _path(self, name: str) -> Path:
        # Spread by the last digits: a folder of a million files is slow to look through.
        return self._copies / name[-2:] / name

    def _link(self, copy: Path, link: Path, entry: Entry, download: Download) -> None:
        while True:
            with suppress(FileNotFoundError):  # not there yet, or evicted since
                os.link(copy, link)
                if link.stat().st_size == entry.size:
                    os.utime(copy)
                    return
                link.unlink()
                copy.unlink()
            self._keep(copy, entry.size, partial(_fetch, download, entry), link=link)
            if link.exists():
                return

    def _keep(self, copy: Path, size: int, write: Callable[[BinaryIO], object], link: Path | None = None) -> None:
        """Make the copy, unless another process just did. A link made here lives on when the copy is evicted."""
        self._make_room(size)
        with self._locked_file(self._unfinished / copy.name) as (path, descriptor):
            try:
                if copy.exists():
                    return
                os.ftruncate(descriptor, 0)  # another process may have died over it
                with os.fdopen(os.dup(descriptor), "r+b") as stream:
                    write(stream)
                if link is not None:
                    os.link(path, link)
                copy.parent.mkdir(parents=True, exist_ok=True)
                path.rename(copy)
            finally:
                path.unlink(missing_ok=True)

    @contextmanager
    def _locked_file(self, path: Path) -> Iterator[tuple[Path, int]]:
        """The file at `path`, made if need be and locked; a lock on a file that was moved away meanwhile is no lock."""
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if _is_at(path, descriptor):
                    yield path, descriptor
                    return
            finally:
                os.close(descriptor)

    # --- eviction ----------------------------------------------------------------------------------------------------

    def _make_room(self, size: int) -> None:
        with self._lock:
            self._allowance -= size
            if self._allowance >= 0:
                return
            free = self._limit_bytes - self._evict()
            # A small part: other processes add copies too, and nobody counts the sum all the time.
            self._allowance = max(free // 16, self._limit_bytes // 256) - size

    def _evict(self) -> int:
        """Remove what was not used for longest until the sum is below the limit; the sum that is left, in bytes."""
        self._remove_left_over()
        found = []
        for path in self._copies.glob("*/*"):
            with suppress(FileNotFoundError):
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in found)
        if total > self._limit_bytes * KEPT_AFTER_EVICTION:
            for _, size, path in sorted(found):
                if total <= self._limit_bytes * KEPT_AFTER_EVICTION:
                    break
                path.unlink(missing_ok=True)
                total -= size
        return total

    def _remove_left_over(self) -> None:
        """Half-made copies of processes that died: nobody holds their locks."""
        for path in self._unfinished.glob("*"):
            with suppress(FileNotFoundError, BlockingIOError):
                descriptor = os.open(path, os.O_RDWR)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if _is_at(path, descriptor):
                        path.unlink()
                finally:
                    os.close(descriptor)


def _fetch(download: Download, entry: Entry, stream: BinaryIO) -> None:
    """Download, down to the disk: nobody checks these bytes against a digest before a library reads them."""
    download(entry, stream)
    stream.flush()
    os.fsync(stream.fileno())


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
