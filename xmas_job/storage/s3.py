"""The store in an S3 bucket. Create-only by If-None-Match, with a nonce, so that a retried put knows itself again.

Owns the calls. Relies on one condition only, that of a plain put, because it is the one all S3 servers honour alike.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError
from s3transfer.utils import S3_RETRYABLE_DOWNLOAD_ERRORS
from urllib3.exceptions import HTTPError as UnwrappedError

from xmas_job.environment import Environment
from xmas_job.errors import TryAgainError, UsageError
from xmas_job.storage.copies import LocalCopies
from xmas_job.storage.s3_client import make_client, write_arguments
from xmas_job.storage.s3_errors import AGAIN, code_of, explained
from xmas_job.storage.s3_stream import open_ranges
from xmas_job.storage.store import Entry, key_parts

NONCE: Final = "xmas-nonce"
"""Metadata name of the mark by which a create knows its own object."""
PART_BYTES: Final = 32 * 2**20
_LOST_CONDITION, _CONFLICT = 412, 409


class S3Store:
    """Keys are object names under `prefix` in `bucket`."""

    def __init__(self, uri: str, environment: Environment) -> None:
        # Not from urlsplit: in a key, "?", "#" and "%" are characters as any other.
        self._bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        self._prefix = prefix.strip("/")
        if not self._bucket or {"", ".", ".."} & set(self._prefix.split("/") if self._prefix else ()):
            raise UsageError(f"store root {uri!r} is not s3://bucket/prefix.", "Correct XMAS_STORE_ROOT.")
        self._environment = environment
        self._attempts = environment.s3_attempts
        self._write = write_arguments(environment)
        self._client = make_client(environment, self.uri)
        self._transfer = TransferConfig(multipart_threshold=2 * PART_BYTES, multipart_chunksize=PART_BYTES)
        self._copies = LocalCopies(environment.scratch, environment.cache_bytes)

    def __reduce__(self) -> tuple[type[S3Store], tuple[str, Environment]]:
        # Processes that load images get a client of their own.
        return type(self), (self.uri, self._environment)

    @property
    def uri(self) -> str:
        """Root as an s3:// URI."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def read(self, key: str) -> bytes:
        """All bytes of `key`. Raises FileNotFoundError."""
        return self._get(key)[0]

    def read_known(self, key: str, sha256: str) -> bytes:
        """As `read`, from a local copy if there is one with this digest."""
        key_parts(key)
        return self._copies.read_known(sha256, lambda: self.read(key))

    def open(self, key: str) -> BinaryIO:
        """A seekable stream over `key`. Raises FileNotFoundError."""
        head = self._head(key)
        if head is None:
            raise FileNotFoundError(2, "no such object", self._name(key))
        return cast(BinaryIO, open_ranges(partial(self._read_range, key, head["ETag"]), head["ContentLength"]))

    def create(self, key: str, data: bytes) -> bool:
        """Write `key` only if it is not there; False if it was.

        A put whose answer was lost is sent again by the client and then loses to itself. So a refusal means: look
        whose object it is. One that is gone by then was not in the way: try again.
        """
        nonce = uuid.uuid4().hex
        for attempt in range(self._attempts):
            try:
                with explained(self._name(key)):
                    self._put(key, data, IfNoneMatch="*", Metadata={NONCE: nonce})
            except TryAgainError as error:
                if _status(error) not in {_LOST_CONDITION, _CONFLICT}:
                    raise
            else:
                return True
            head = self._head(key)
            if head is not None:
                return bool(head["Metadata"].get(NONCE) == nonce)
            _wait(attempt)
        raise TryAgainError(f"{self._name(key)}: the store refuses to create it, and it is not there.", AGAIN)

    def put(self, key: str, data: bytes) -> None:
        """Write `key`, replacing what was there."""
        with explained(self._name(key)):
            self._put(key, data)

    def upload(self, path: Path, key: str) -> None:
        """Move a finished local file to `key`, big ones in parts; they become visible at once, when all are there."""
        name = self._object(key)
        with explained(self._name(key)), path.open("rb") as stream:
            self._client.upload_fileobj(
                stream, self._bucket, name, ExtraArgs=dict(self._write) or None, Config=self._transfer
            )
        path.unlink()

    def copy(self, source: str, target: str) -> None:
        """Copy the object `source` to `target`, within the store. Raises FileNotFoundError."""
        origin = {"Bucket": self._bucket, "Key": self._object(source)}
        name = self._object(target)
        with explained(self._name(source)):
            self._client.copy(origin, self._bucket, name, ExtraArgs=dict(self._write) or None, Config=self._transfer)

    def exists(self, key: str) -> bool:
        """Whether `key` is there."""
        return self._head(key) is not None

    def size(self, key: str) -> int | None:
        """Bytes of `key`, or None if it is not there."""
        head = self._head(key)
        return None if head is None else int(head["ContentLength"])

    def delete(self, key: str) -> None:
        """Remove `key`; nothing happens if it is not there."""
        with explained(self._name(key)):
            self._client.delete_object(Bucket=self._bucket, Key=self._object(key))

    def list(self, prefix: str) -> Iterator[Entry]:
        """Every object under the folder `prefix`, in key order. Consoles' markers of empty folders are no objects."""
        for page in self._pages(prefix):
            for found in page.get("Contents", ()):
                if not found["Key"].endswith("/"):
                    key = found["Key"].removeprefix(self._folder(""))
                    yield Entry(key, found["Size"], found["ETag"].strip('"'))

    def folders(self, prefix: str) -> Iterator[str]:
        """Names of the folders right under the folder `prefix`, by a listing that ends at the next "/"."""
        for page in self._pages(prefix, Delimiter="/"):
            for found in page.get("CommonPrefixes", ()):
                yield found["Prefix"].rstrip("/").rpartition("/")[2]

    def written_at(self, key: str) -> float | None:
        """When `key` was last written, in whole seconds by the store's clock; None if it is not there."""
        head = self._head(key)
        return None if head is None else float(head["LastModified"].timestamp())

    def local_folder(self, prefix: str) -> Path:
        """Local copies of everything under `prefix`, from the bounded cache where they are there already."""
        folder = "/".join(key_parts(prefix))
        entries = {entry.key.removeprefix(f"{folder}/"): entry for entry in self.list(folder)}
        return self._copies.folder(self.uri, entries, self._download)

    def own_folder(self, prefix: str) -> None:
        """None: an object is no file."""
        key_parts(prefix)

    # --- calls -----------------------------------------------------------------------------------------------------

    def _object(self, key: str) -> str:
        name = "/".join(key_parts(key))
        return f"{self._prefix}/{name}" if self._prefix else name

    def _folder(self, prefix: str) -> str:
        """What the names of all objects under `prefix` start with."""
        if prefix:
            return f"{self._object(prefix)}/"
        return f"{self._prefix}/" if self._prefix else ""

    def _pages(self, prefix: str, **how: str) -> Iterator[dict[str, Any]]:
        folder = self._folder(prefix)
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=folder, **how)
        answers = iter(pages)
        while True:
            with explained(f"s3://{self._bucket}/{folder}"):
                page = next(answers, None)
            if page is None:
                return
            yield page

    def _name(self, key: str) -> str:
        """The object as messages name it."""
        return f"s3://{self._bucket}/{self._object(key)}"

    def _put(self, key: str, data: bytes, **condition: Any) -> None:
        self._client.put_object(Bucket=self._bucket, Key=self._object(key), Body=data, **self._write, **condition)

    def _head(self, key: str) -> dict[str, Any] | None:
        name = self._object(key)
        try:
            with explained(self._name(key)):
                found: dict[str, Any] = self._client.head_object(Bucket=self._bucket, Key=name)
        except FileNotFoundError:
            return None
        return found

    def _get(self, key: str, **range_: str) -> tuple[bytes, str]:
        """Bytes and etag. The client's own retries end where a body begins; one that breaks is asked for anew."""
        name = self._object(key)
        with explained(self._name(key)):
            for attempt in range(self._attempts):
                try:
                    return self._get_once(name, range_)
                except _BrokenBodyError as broken:
                    cause = broken.__cause__
                _wait(attempt)
            assert cause is not None
            raise cause

    def _get_once(self, name: str, range_: dict[str, str]) -> tuple[bytes, str]:
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=name, **range_)
        except BotoCoreError:
            raise
        except UnwrappedError as error:  # the body of an answer such as 404, which the client does not guard
            raise _BrokenBodyError from error
        try:
            return answer["Body"].read(), answer["ETag"]
        except S3_RETRYABLE_DOWNLOAD_ERRORS as error:
            raise _BrokenBodyError from error

    def _read_range(self, key: str, etag: str, start: int, end: int) -> bytes:
        data, etag_now = self._get(key, Range=f"bytes={start}-{end - 1}")
        # Compared here, not by If-Match: servers differ in how they want the etag quoted.
        if etag_now != etag:
            raise TryAgainError(f"{self._name(key)} was replaced while it was read.", AGAIN)
        return data

    def _download(self, entry: Entry, stream: BinaryIO) -> None:
        with explained(self._name(entry.key)):
            self._client.download_fileobj(self._bucket, self._object(entry.key), stream, Config=self._transfer)


class _BrokenBodyError(Exception):
    """The connection ended in the middle of an answer."""


def _status(error: Exception) -> int:
    """HTTP status of the answer that an error explains; 0 if there was none."""
    return code_of(error.__cause__)[1] if isinstance(error.__cause__, ClientError) else 0


def _wait(attempt: int) -> None:
    """Wait before the next attempt, longer each time, and never in step with others."""
    time.sleep(random.random() * min(0.05 * 2**attempt, 20.0))  # noqa: S311 (no secret)
