"""Names of the files in which signals lie, and how to find them again. No torch."""

from __future__ import annotations

import re

from xmas_job.storage.record import Artifact

_PART = re.compile(r"^signal=([a-z0-9_]+)/(?:checkpoint=(\d+)/)?part-\d+\.parquet$")


def signal_path(checkpoint: int | None, partition: int, signal: str = "alignment") -> str:
    """A signal's values of one partition at one checkpoint; None for a signal that no checkpoint has a part in."""
    return f"{_folder(checkpoint, signal)}part-{partition:06d}.parquet"


def _folder(checkpoint: int | None, signal: str) -> str:
    return f"signal={signal}/" + ("" if checkpoint is None else f"checkpoint={checkpoint:04d}/")


def absent_path(partition: int, signal: str = "alignment") -> str:
    """Examples of one partition without the signal."""
    return f"signal={signal}/absent/part-{partition:06d}.parquet"


def signals_of(artifact: Artifact) -> list[str]:
    """Signals that the artifact has values of, by name."""
    return sorted({match[1] for path in artifact.paths if (match := _PART.match(path))})


def checkpoints_of(artifact: Artifact, signal: str = "alignment") -> list[int]:
    """Checkpoints that the artifact has values of the signal at, ascending."""
    matches = (_PART.match(path) for path in artifact.paths)
    return sorted({int(match[2]) for match in matches if match and match[1] == signal and match[2]})


def signal_paths(artifact: Artifact, checkpoint: int | None, signal: str = "alignment") -> list[str]:
    """Parts of one signal at one checkpoint (None: of one without), by partition."""
    start = f"{_folder(checkpoint, signal)}part-"
    return [path for path in artifact.paths if path.startswith(start)]


def absent_paths(artifact: Artifact, signal: str = "alignment") -> list[str]:
    """Parts that name the examples without the signal, by partition."""
    return [path for path in artifact.paths if path.startswith(f"signal={signal}/absent/")]
