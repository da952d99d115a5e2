"""Records: it happened only if its record exists, and the record is written last.

Owns the record's form, the digest of an artifact and reading its files back with their sha256 checked.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from xmas_job.errors import BadDataError
from xmas_job.fingerprint import Json, canonical_json, digest_of, digest_of_file
from xmas_job.storage.documents import read_document
from xmas_job.storage.store import Store

REBUILD = "Delete that file and run again: the stage is rebuilt to the same bytes."


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of an artifact.

    `path` is its name in the artifact, `location` its place below the artifact's address (an attempt's folder).
    """

    path: str
    location: str
    sha256: str
    bytes: int
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """What was built, from what, and where its files lie."""

    stage: str
    version: int
    fingerprint: str
    section: Mapping[str, Json]
    inputs: Mapping[str, tuple[str, ...]]
    """Input name -> content digests."""
    files: tuple[StoredFile, ...]
    digest: str
    """Content digest: of the names and sha256 of the files. Equal bytes have equal digests, whoever built them."""
    metrics: Mapping[str, Json]
    provenance: Mapping[str, Json] = field(default_factory=dict)
    """Seconds, software, time, attempt: what does not enter any digest."""

    def to_bytes(self) -> bytes:
        """As stored."""
        return canonical_json(asdict(self)) + b"\n"


def content_digest(files: Iterable[StoredFile]) -> str:
    """Digest (64 hex digits) of an artifact: names and sha256 of its files, in name order."""
    return digest_of(sorted([file.path, file.sha256] for file in files))


def read_record(store: Store, key: str) -> Record:
    """The record stored at `key`.

    Raises:
        FileNotFoundError: if it is not there: what it would tell of has not happened.
        BadDataError: if it is damaged.
    """
    return read_document(store, key, _parse, remedy=REBUILD)


def parse_record(data: bytes) -> Record:
    """The record from its stored bytes."""
    return _parse(json.loads(data))


def _parse(raw: dict[str, Any]) -> Record:
    files = tuple(StoredFile(**file) for file in raw["files"])
    inputs = {name: tuple(digests) for name, digests in raw["inputs"].items()}
    return Record(**{**raw, "files": files, "inputs": inputs})


@dataclass(frozen=True)
class Artifact:
    """A finished stage's output, as the stages after it read it."""

    store: Store
    address: str
    """Folder of the artifact in the store: "artifacts/<stage>/<fingerprint>"."""
    record: Record
    node_id: str = ""

    @property
    def paths(self) -> list[str]:
        """Names of the files, sorted."""
        return sorted(file.path for file in self.record.files)

    def file(self, path: str) -> StoredFile:
        """The file named `path`. Raises KeyError."""
        for file in self.record.files:
            if file.path == path:
                return file
        raise KeyError(f"{self.address} has no file {path!r}")

    def key(self, path: str) -> str:
        """Store key of the file named `path`."""
        return f"{self.address}/{self.file(path).location}"

    def read(self, path: str) -> bytes:
        """Bytes of the file named `path`.

        Raises:
            BadDataError: if they are not the bytes that were recorded.
        """
        key = self.key(path)
        try:
            data = self.store.read(key)
        except FileNotFoundError:
            raise damaged(f"{self.store.uri}/{key}", "is gone") from None
        if hashlib.sha256(data).hexdigest() != self.file(path).sha256:
            raise damaged(f"{self.store.uri}/{key}", "has other bytes than were recorded")
        return data

    def local_folder(self, prefix: str) -> Path:
        """A local folder with the files named `prefix`/..., every one checked against its sha256.

        Raises:
            KeyError: if there is no such file.
            BadDataError: if one of them is gone or has changed.
        """
        files = [file for file in self.record.files if file.path.startswith(f"{prefix}/")]
        if not files:
            raise KeyError(f"{self.address} has no files under {prefix!r}")
        root = files[0].location.removesuffix(files[0].path.removeprefix(prefix))
        folder = self.store.local_folder(f"{self.address}/{root}")
        for file in files:
            path = folder / file.path.removeprefix(f"{prefix}/")
            if not path.is_file():
                raise damaged(str(path), "is gone")
            if digest_of_file(path) != file.sha256:
                raise damaged(str(path), "has other bytes than were recorded")
        return folder

    def is_whole(self) -> bool:
        """Whether every file is there with its size, by one listing; contents are checked when they are read."""
        wanted = {f"{self.address}/{file.location}": file.bytes for file in self.record.files}
        if not wanted:
            return True
        # Of the folder that holds them all: beside it are leases, and for one partition all the others.
        folder = posixpath.commonpath([posixpath.dirname(key) for key in wanted])
        sizes = {entry.key: entry.size for entry in self.store.list(folder)}
        return all(sizes.get(key) == size for key, size in wanted.items())


def damaged(name: str, what: str) -> BadDataError:
    """The error for a stored file that is not what its record says."""
    return BadDataError(f"{name} {what}.", REBUILD)
