"""What a stage writes: files of one attempt, kept apart from every other attempt's.

Owns the way from a local file to the store and the list of what was written. Commits nothing: the runner does.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from xmas_job.fingerprint import Json, canonical_json, digest_of_file
from xmas_job.storage.record import StoredFile
from xmas_job.storage.sealed import MANIFEST, sealed_files, to_manifest
from xmas_job.storage.store import Store
from xmas_job.storage.tables import write_table


class Output:
    """The files of one attempt at one artifact (or one partition of it).

    Args:
        store: where the files go.
        address: folder of the artifact in the store.
        attempt: folder of this attempt, below `address`.
        scratch: an empty local folder for files on their way.

    Attributes:
        after_commit: called once the record is there: what only an unfinished artifact needed is cleared away.
    """

    def __init__(self, store: Store, address: str, attempt: str, scratch: Path) -> None:
        self.scratch = scratch
        self.files: dict[str, StoredFile] = {}
        self.address = address
        self.attempt = attempt
        self.after_commit: list[Callable[[], None]] = []
        self._store = store

    @property
    def prefix(self) -> str:
        """Folder of this attempt in the store."""
        return f"{self.address}/{self.attempt}"

    def take_over(self, files: Iterable[StoredFile]) -> None:
        """Count files that an earlier attempt finished as this one's."""
        self.files |= {file.path: file for file in files}

    def table(self, path: str, table: pa.Table, schema: pa.Schema) -> None:
        """Write `table` as Parquet under the name `path`, checked against `schema`."""
        local = self._local(path)
        write_table(table, local, schema)
        self._upload(local, path, rows=table.num_rows)

    def data(self, path: str, data: bytes) -> None:
        """Write `data` under the name `path`."""
        local = self._local(path)
        local.write_bytes(data)
        self._upload(local, path)

    def json(self, path: str, value: Json) -> None:
        """Write `value` as canonical JSON under the name `path`."""
        self.data(path, canonical_json(value) + b"\n")

    @contextmanager
    def folder(self, path: str) -> Iterator[Path]:
        """A local folder to fill; when the block ends, its files are written under the name `path`/."""
        local = self._local(path)
        local.mkdir()
        yield local
        for file in sorted(found for found in local.rglob("*") if found.is_file()):
            self._upload(file, f"{path}/{file.relative_to(local).as_posix()}")
        shutil.rmtree(local)

    @contextmanager
    def sealed_folder(self, path: str) -> Iterator[Path]:
        """As `folder`, with a manifest of the files' sha256 in it, which is written last."""
        with self.folder(path) as local:
            yield local
            manifest = to_manifest(sealed_files(local))
        self.data(f"{path}/{MANIFEST}", manifest)

    def file(self, path: str, write: Callable[[Path], None], *, rows: int | None = None) -> None:
        """Write what `write` puts into the local file it is given, under the name `path`."""
        local = self._local(path)
        write(local)
        self._upload(local, path, rows=rows)

    def sha256(self, path: str) -> str:
        """Sha256 of the file written under the name `path`."""
        return self.files[path].sha256

    def _local(self, path: str) -> Path:
        local = self.scratch / path
        local.parent.mkdir(parents=True, exist_ok=True)
        return local

    def _upload(self, local: Path, path: str, rows: int | None = None) -> None:
        location = f"{self.attempt}/{path}"
        self.files[path] = StoredFile(path, location, digest_of_file(local), local.stat().st_size, rows)
        self._store.upload(local, f"{self.address}/{location}")
