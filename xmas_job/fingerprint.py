"""Digests: the canonical JSON of a value, and the address that follows from it.

Owns the rule "an artifact's address is what determines its bytes". Refuses values that have no canonical form.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]


def canonical_json(value: Json) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces, so that equal values have equal bytes.

    Raises:
        TypeError: for a value that JSON cannot carry.
        ValueError: for NaN and infinity, which have no JSON form.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def digest_of(value: Json) -> str:
    """Sha256 (64 hex digits) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def digest_of_file(path: Path) -> str:
    """Sha256 (64 hex digits) of a file's bytes, read in chunks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of_folder(folder: Path) -> str:
    """Sha256 (64 hex digits) of the names and bytes of all files in a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest_of([[path.relative_to(folder).as_posix(), digest_of_file(path)] for path in files])


def stage_fingerprint(
    stage: str, version: int, section: Mapping[str, Json], inputs: Mapping[str, Sequence[str]]
) -> str:
    """Address (32 hex digits) of a stage's output.

    Args:
        stage: name of the stage.
        version: the stage's version; it changes when the meaning of its output does.
        section: the stage's own configuration.
        inputs: input name -> content digests in order. Store root, region, image, worker count and retries are
            not here: they do not change the bytes.
    """
    identity: Json = {"stage": stage, "version": version, "section": section, "inputs": inputs}
    return digest_of(identity)[:32]
