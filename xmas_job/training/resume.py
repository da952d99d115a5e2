"""Where a training keeps what it needs to go on: states in its attempt's folder of the store, readable from anywhere.

Owns their place, their manifests and how many are kept. Refuses to own what is in them (the Trainer writes it). A
state is used only if its manifest, written last, is there and every file has its sha256. Its pickles are read because
this package wrote them and the manifest says that they are the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xmas_job.errors import BadDataError, UsageError
from xmas_job.fingerprint import Json, digest_of_file
from xmas_job.logs import get_logger
from xmas_job.storage.documents import read_document
from xmas_job.storage.output import Output
from xmas_job.storage.record import StoredFile
from xmas_job.storage.sealed import MANIFEST, SealedFile, parse_files, to_manifest
from xmas_job.storage.store import Store

logger = get_logger(__name__)

_STATE = re.compile(r"(.*/attempts/([0-9]+)/resume/([0-9]+))/(.+)")


@dataclass(frozen=True, slots=True)
class Layout:
    """How a training is spread; a sharded state only fits the same one."""

    num_processes: int = 1
    zero_stage: int = 0

    @property
    def is_alone(self) -> bool:
        """Whether there is one plain process, which nobody waits for."""
        return self == Layout()


@dataclass(frozen=True, slots=True)
class ResumeState:
    """A state that can be gone on from, on the local disk."""

    key: str
    """Its folder in the store."""
    step: int
    folder: Path
    layout: Layout
    finished: tuple[StoredFile, ...]
    """What the attempts up to here had written of the artifact."""


@dataclass(frozen=True, slots=True)
class _Found:
    key: str
    attempt: int
    step: int

    def __lt__(self, other: _Found) -> bool:
        return (self.step, self.attempt) < (other.step, other.attempt)


class ResumeStates:
    """The states of one training, of this attempt and of those before it.

    Args:
        store: where they lie.
        output: of this attempt; its files so far are remembered with every state.
        num_kept: states of this attempt that stay; older ones go when a new one is sealed.
    """

    def __init__(self, store: Store, output: Output, num_kept: int = 2) -> None:
        self._store = store
        self._output = output
        self._num_kept = num_kept

    def newest(self, layout: Layout) -> ResumeState | None:
        """The furthest whole state; damaged ones are passed over with a warning.

        Raises:
            UsageError: the state is sharded for another number of processes or another ZeRO stage.
        """
        for found in sorted(self._sealed(), reverse=True):
            try:
                state = self.restore(found.key)
            except (BadDataError, FileNotFoundError) as error:
                logger.warning("resume state is damaged, an older one is taken", key=found.key, error=str(error))
                continue
            _require_fitting(state.layout, layout, f"{self._store.uri}/{found.key}")
            return state
        return None

    def save(self, files: Mapping[str, SealedFile], step: int, layout: Layout) -> None:
        """Seal the state of `step`, whose files are uploaded; then drop older ones than are kept."""
        finished: Json = [asdict(file) for _, file in sorted(self._output.files.items())]
        manifest = to_manifest(files, step=step, layout=asdict(layout), finished=finished)
        self._store.put(f"{self._key(step)}/{MANIFEST}", manifest)
        self._drop_older()

    def upload(self, folder: Path, step: int) -> dict[str, SealedFile]:
        """Move the files of a local folder into the unsealed state of `step`."""
        moved = {}
        for path in sorted(found for found in folder.rglob("*") if found.is_file()):
            name = path.relative_to(folder).as_posix()
            moved[name] = SealedFile(digest_of_file(path), path.stat().st_size)
            self._store.upload(path, f"{self._key(step)}/{name}")
        return moved

    def forget(self) -> None:
        """Remove all states: the artifact is committed."""
        self._delete(sorted({_folder(entry) for entry in self._keys()}))

    def _key(self, step: int) -> str:
        return f"{self._output.prefix}/resume/{step:09d}"

    def _keys(self) -> Iterator[str]:
        attempts = self._output.prefix.rpartition("/")[0]
        return (entry.key for entry in self._store.list(attempts) if _STATE.fullmatch(entry.key))

    def _sealed(self) -> list[_Found]:
        matches = [match for key in self._keys() if (match := _STATE.fullmatch(key)) and match[4] == MANIFEST]
        return [_Found(match[1], int(match[2]), int(match[3])) for match in matches]

    def restore(self, key: str) -> ResumeState:
        """The state in that folder of the store. Raises FileNotFoundError; BadDataError, if it is damaged."""
        raw: dict[str, Any] = read_document(
            self._store, f"{key}/{MANIFEST}", dict, remedy="An older state is taken, or none."
        )
        files = parse_files(raw)
        folder = self._store.local_folder(key)
        for name, file in files.items():
            if not (folder / name).is_file() or digest_of_file(folder / name) != file.sha256:
                raise BadDataError(f"{key}/{name} is not what was saved.", "An older state is taken, or none.")
        finished = tuple(StoredFile(**one) for one in raw["finished"])
        for before in finished:
            if self._store.size(f"{self._output.address}/{before.location}") != before.bytes:
                raise BadDataError(f"{before.location} is gone or cut off.", "An older state is taken, or none.")
        return ResumeState(key, int(raw["step"]), folder, Layout(**raw["layout"]), finished)

    def _drop_older(self) -> None:
        """Own states beyond those kept, and all of earlier attempts: who wakes up there reads none of them again."""
        own = f"{self._output.prefix}/"
        folders = sorted({_folder(key) for key in self._keys()})
        mine = [folder for folder in folders if folder.startswith(own)]
        number = int(self._output.prefix.rpartition("/")[2])
        earlier = [folder for folder in folders if _attempt(folder) < number]
        self._delete([*mine[: -self._num_kept], *earlier])

    def _delete(self, folders: Sequence[str]) -> None:
        for folder in folders:
            self._store.delete(f"{folder}/{MANIFEST}")  # first: what is half removed no longer counts
            for entry in list(self._store.list(folder)):
                self._store.delete(entry.key)


def _folder(key: str) -> str:
    match = _STATE.fullmatch(key)
    assert match is not None
    return match[1]


def _attempt(folder: str) -> int:
    return int(folder.split("/attempts/")[1].partition("/")[0])


def _require_fitting(saved: Layout, wanted: Layout, key: str) -> None:
    """A plain state fits any number of processes; a sharded one, or another kind, only its own."""
    if saved == wanted or (saved.zero_stage == 0 and wanted.zero_stage == 0):
        return
    raise UsageError(
        f"The training to go on with was run by {saved.num_processes} processes at ZeRO stage {saved.zero_stage}, "
        f"not by {wanted.num_processes} at {wanted.zero_stage}.",
        f"Give it the same number of GPUs and XMAS_ZERO_STAGE={saved.zero_stage}, or delete {key} to start anew.",
    )
