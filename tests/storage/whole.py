"""What every reader of a store may count on, at any moment."""

from __future__ import annotations

from xmas_job.storage.record import Artifact, parse_record
from xmas_job.storage.store import Store


def check_that_all_is_whole(store: Store) -> None:
    """A reader finds every file of every record, with the digest that the record names."""
    for entry in store.list("artifacts"):
        if entry.key.endswith("record.json") or entry.key.rpartition("/")[0].endswith("/partitions"):
            address = "/".join(entry.key.split("/")[:3])
            artifact = Artifact(store, address, parse_record(store.read(entry.key)))
            assert artifact.paths
            for path in artifact.paths:
                artifact.read(path)
