"""Names of the files that extraction writes, and how to find them again. No torch."""

from __future__ import annotations

import re

from xmas_job.storage.record import Artifact

SIGNAL_FILE = re.compile(r"^signal=alignment/checkpoint=(\d+)/part-\d+\.parquet$")


def signal_path(checkpoint: int, partition: int) -> str:
    """Alignment values of one partition at one checkpoint."""
    return f"signal=alignment/checkpoint={checkpoint:04d}/part-{partition:06d}.parquet"


def absent_path(partition: int) -> str:
    """Examples of one partition without a score."""
    return f"absent/part-{partition:06d}.parquet"


def checkpoints_of(artifact: Artifact) -> list[int]:
    """Checkpoints that the artifact has values of, ascending."""
    return sorted({int(match[1]) for path in artifact.paths if (match := SIGNAL_FILE.match(path))})


def signal_paths(artifact: Artifact, checkpoint: int) -> list[str]:
    """Parts of one checkpoint, by partition."""
    return [path for path in artifact.paths if (match := SIGNAL_FILE.match(path)) and int(match[1]) == checkpoint]


def absent_paths(artifact: Artifact) -> list[str]:
    """Parts that name the examples without a score, by partition."""
    return [path for path in artifact.paths if path.startswith("absent/")]
