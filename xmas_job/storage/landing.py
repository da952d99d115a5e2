"""Landed dataset versions: where they lie, and what a listing tells of their content."""

from __future__ import annotations

from xmas_job.fingerprint import digest_of
from xmas_job.storage.store import Store

SUCCESS = "_SUCCESS"
"""A version counts once it has this file."""


def landing_prefix(dataset: str) -> str:
    """Key of the folder of a dataset version, "name@version"."""
    name, _, version = dataset.partition("@")
    return f"landing/{name}/{version}"


def landing_digest(store: Store, prefix: str, image_root: str) -> str:
    """Digest of what lies under a version and under its image folder: keys, sizes and etags.

    Ingest reads every byte; this is the cheap look that tells whether it has to.
    """
    folders = [prefix] if f"{image_root}/".startswith(f"{prefix}/") else [prefix, image_root]
    return digest_of(
        [
            [entry.key, entry.size, entry.etag]
            for folder in folders
            for entry in store.list(folder)
            if entry.key != f"{prefix}/{SUCCESS}"
        ]
    )
