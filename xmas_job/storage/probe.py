"""A trial of the one promise everything rests on, made before a run writes anything: create-only means once."""

from __future__ import annotations

import uuid

from xmas_job.errors import UsageError
from xmas_job.storage.store import Store


def probe(store: Store) -> None:
    """Create one small object twice, and take it away again.

    Raises:
        UsageError: if the second create replaced the first: two workers could then both believe they have a lease.
    """
    key = f"probes/{uuid.uuid4().hex}"
    try:
        is_kept = store.create(key, b"1") and not store.create(key, b"2") and store.read(key) == b"1"
    finally:
        store.delete(key)
    if not is_kept:
        raise UsageError(
            f"{store.uri} does not keep create-only puts (If-None-Match: *): it overwrites what is there.",
            "Use a store that does: AWS S3, MinIO, Ceph, R2; or a folder.",
        )
