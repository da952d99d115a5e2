"""The store: keys and bytes under one root, with a create-only put as the one atomic step.

Owns the contract every store keeps. Knows nothing of artifacts and records.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored object. `etag` changes whenever the bytes may have changed."""

    key: str
    size: int
    etag: str


class Store(Protocol):
    """Keys are relative, "/"-separated, without "." and ".." parts."""

    @property
    def uri(self) -> str:
        """Root as a URI, without a trailing slash."""

    def read(self, key: str) -> bytes:
        """All bytes of `key`. Raises FileNotFoundError."""

    def read_known(self, key: str, sha256: str) -> bytes:
        """As `read`, for bytes that should have this digest: a store far away may give a local copy of them.

        What lies in the store may have another digest by now; it is returned as it is, and the caller compares.
        """

    def open(self, key: str) -> BinaryIO:
        """A seekable stream over `key`. Raises FileNotFoundError."""

    def create(self, key: str, data: bytes) -> bool:
        """Write `key` only if it is not there, atomically and durably; False if it was."""

    def put(self, key: str, data: bytes) -> None:
        """Write `key`, replacing what was there, atomically."""

    def upload(self, path: Path, key: str) -> None:
        """Move a finished local file to `key`, atomically and durably."""

    def copy(self, source: str, target: str) -> None:
        """Copy the object `source` to `target`, atomically and durably. Raises FileNotFoundError."""

    def exists(self, key: str) -> bool:
        """Whether `key` is there."""

    def size(self, key: str) -> int | None:
        """Bytes of `key`, or None if it is not there."""

    def delete(self, key: str) -> None:
        """Remove `key`; nothing happens if it is not there."""

    def list(self, prefix: str) -> Iterator[Entry]:
        """Every object whose key starts with the folder `prefix`, in key order."""

    def folders(self, prefix: str) -> Iterator[str]:
        """Names of the folders right under the folder `prefix`, in order, without looking into them.

        On an object store a listing with "/" as delimiter: its price is the number of folders, not of files.
        """

    def written_at(self, key: str) -> float | None:
        """When `key` was last written, in seconds by the store's own clock; None if it is not there.

        Only ever compared with other times of the same store, never with a clock of this machine.
        """

    def local_folder(self, prefix: str) -> Path:
        """A local folder with everything under `prefix`, for libraries that read paths and write none.

        It stays as it is while this process lives.
        """

    def own_folder(self, prefix: str) -> Path | None:
        """The folder `prefix` itself, where keys are paths and links may lead out of it; None elsewhere."""


def key_parts(key: str) -> tuple[str, ...]:
    """The parts of a key, without empty and "." ones.

    Raises:
        ValueError: for what is no key: empty, absolute, with ".." or NUL.
    """
    parts = PurePosixPath(key).parts
    if not parts or PurePosixPath(key).is_absolute() or ".." in parts or "\0" in key:
        raise ValueError(f"{key!r} is no key of a store")
    return parts
