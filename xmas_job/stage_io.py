"""What a stage function is given and returns: inputs, an output, its environment. Nothing of the run itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from xmas_job.environment import Environment
from xmas_job.errors import UsageError
from xmas_job.fingerprint import Json, digest_of_folder
from xmas_job.progress import ProgressCallback
from xmas_job.storage.output import Output
from xmas_job.storage.record import Artifact
from xmas_job.storage.roots import open_store
from xmas_job.storage.store import Store

Metrics = Mapping[str, Json]


@dataclass(frozen=True)
class Source:
    """Something a run reads and did not make: a landed dataset version or a model folder."""

    uri: str
    """Store key of a landed version or of a model folder; absolute path of a model folder outside the store."""
    digest: str


@dataclass(frozen=True)
class StageIO:
    """All a stage function sees beside its section."""

    store: Store
    output: Output
    environment: Environment
    progress: ProgressCallback
    partition: int | None = None
    artifacts: Mapping[str, tuple[Artifact, ...]] = field(default_factory=dict)
    sources: Mapping[str, tuple[Source, ...]] = field(default_factory=dict)

    def artifact(self, name: str) -> Artifact:
        """The one artifact that is the input `name`."""
        (artifact,) = self.artifacts[name]
        return artifact

    def source(self, name: str) -> Source:
        """The one source that is the input `name`."""
        (source,) = self.sources[name]
        return source

    def model_folder(self, name: str) -> Path:
        """The model folder that is the input `name`.

        Raises:
            UsageError: if it is not what it was when the run started.
        """
        source = self.source(name)
        folder = model_folder(self.store, source.uri)
        if digest_of_folder(folder) != source.digest:
            raise UsageError(f"{source.uri} has changed since the run started.", "Start a new run.")
        return folder


def model_folder(store: Store, uri: str) -> Path:
    """The local folder of a model that is named by an absolute path, its key in the store, or a URI."""
    if Path(uri).is_absolute():
        return Path(uri)
    home, key = locate(store, uri)
    return home.local_folder(key)


def locate(store: Store, uri: str) -> tuple[Store, str]:
    """The store and the key in it that a URI names; a key alone is one of `store`."""
    root, _, name = uri.rstrip("/").rpartition("/")
    return (open_store(root), name) if "://" in uri else (store, uri)
