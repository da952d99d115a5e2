"""Sealed folders: a folder of files counts as whole once MANIFEST.json, written last, names each with its sha256.

Owns the manifest's form and the check of a folder against it. Knows nothing of what the files are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmas_job.errors import BadDataError
from xmas_job.fingerprint import Json, canonical_json, digest_of_file

MANIFEST = "MANIFEST.json"


@dataclass(frozen=True, slots=True)
class SealedFile:
    """One file of a sealed folder."""

    sha256: str
    bytes: int


def sealed_files(folder: Path) -> dict[str, SealedFile]:
    """Name -> file, of every file in the folder but the manifest."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    return {
        path.relative_to(folder).as_posix(): SealedFile(digest_of_file(path), path.stat().st_size) for path in found
    }


def to_manifest(files: Mapping[str, SealedFile], **facts: Json) -> bytes:
    """The bytes of MANIFEST.json, with what else is to be known of the folder."""
    listed: Json = {name: {"sha256": file.sha256, "bytes": file.bytes} for name, file in sorted(files.items())}
    return canonical_json({**facts, "files": listed}) + b"\n"


def parse_files(raw: Mapping[str, Any]) -> dict[str, SealedFile]:
    """The files that a manifest names. Raises KeyError or TypeError if it is damaged."""
    return {name: SealedFile(str(file["sha256"]), int(file["bytes"])) for name, file in raw["files"].items()}


def require_sealed(folder: Path, remedy: str) -> None:
    """Check that the folder has its manifest, and every file of it with its size; contents are not read.

    Raises:
        BadDataError: with the remedy, if it was never finished, or lost something.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise BadDataError(f"{folder} has no {MANIFEST}: it was never finished.", remedy)
    try:
        files = parse_files(json.loads(manifest.read_bytes()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadDataError(f"{manifest} is damaged: {error}.", remedy) from error
    for name, file in files.items():
        path = folder / name
        if not path.is_file():
            raise BadDataError(f"{path} is gone.", remedy)
        if path.stat().st_size != file.bytes:
            raise BadDataError(f"{path} has {path.stat().st_size} bytes, not the {file.bytes} that were saved.", remedy)
