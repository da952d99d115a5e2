"""What a stage function is given and returns: inputs, an output, its environment. Nothing of the run itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from xmas_job.environment import Environment
from xmas_job.fingerprint import Json
from xmas_job.progress import ProgressCallback
from xmas_job.storage.output import Output
from xmas_job.storage.record import Artifact
from xmas_job.storage.store import Store

Metrics = Mapping[str, Json]


@dataclass(frozen=True)
class Source:
    """Something a run reads and did not make: a landed dataset version or a model folder."""

    uri: str
    """Store key of a landed version; path of a model folder."""
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
