"""Damaged documents are refused by name with a remedy, and foreign files among numbered ones are passed over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from xmas_job.commands.resolve import read_run, run_ids
from xmas_job.errors import BadDataError
from xmas_job.storage import channels
from xmas_job.storage.inventory import Inventory
from xmas_job.storage.journal import failures, outcomes
from xmas_job.storage.lease import acquire, newest_lease, try_acquire
from xmas_job.storage.local import LocalStore
from xmas_job.storage.record import read_record
from xmas_job.storage.store import Store

RECORD, MOVE, LEASE = (
    "artifacts/s/f/record.json",
    "channels/latest/000000000001.json",
    "artifacts/s/f/lease/000001.json",
)
RUN, OUTCOME, FAILURE = "runs/r/run.json", "runs/r/stages/pool.json", "runs/r/failures/1.json"


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return LocalStore(tmp_path / "store")


def take(store: Store) -> object:
    return acquire(store, "artifacts/s/f", ttl_seconds=1, timeout_seconds=1, is_done=lambda: False)


READERS: list[tuple[str, Callable[[Store], object]]] = [
    (RECORD, lambda store: read_record(store, RECORD)),
    (RECORD, lambda store: Inventory(store).all()),
    (MOVE, lambda store: channels.current(store, "latest")),
    (MOVE, lambda store: channels.promote(store, "latest", selection="s", when="", why="")),
    (LEASE, lambda store: newest_lease(store, "artifacts/s/f")),
    (LEASE, lambda store: try_acquire(store, "artifacts/s/f", 1)),
    (LEASE, take),
    (RUN, lambda store: read_run(store, "r")),
    (RUN, run_ids),
    (OUTCOME, lambda store: outcomes(store, "r")),
    (FAILURE, lambda store: failures(store, "r")),
]


@pytest.mark.parametrize(
    "data", [b"", b'{"stage": "sig', b"\xff\xfe", b"null", b"[]", b"{}", b'{"files": 1, "inputs": 1}']
)
@pytest.mark.parametrize(("key", "read"), READERS)
def test_damaged_document_is_refused_by_name(
    local: Store, key: str, read: Callable[[Store], object], data: bytes
) -> None:
    local.put(key, data)
    with pytest.raises(BadDataError, match=rf"/{key} \({len(data)} bytes\) is damaged: .+") as caught:
        read(local)
    assert caught.value.remedy


def test_document_that_is_not_there_is_not_damaged(store: Store) -> None:
    with pytest.raises(FileNotFoundError):
        read_record(store, RECORD)


def test_what_others_leave_among_numbered_documents_is_passed_over(store: Store) -> None:
    """On NFS a file that is replaced while somebody reads it stays as .nfs...; desktops leave .DS_Store."""
    lease = try_acquire(store, "artifacts/s/f", 60)
    channels.promote(store, "latest", selection="one", when="", why="")
    for name in (".nfs000000000001", ".DS_Store", "000000000009.json~", "x.json"):
        store.put(f"artifacts/s/f/lease/{name}", b"")
        store.put(f"channels/latest/{name}", b"")
    assert lease is not None
    found = newest_lease(store, "artifacts/s/f")
    assert found is not None
    assert found.number == lease.number == 1
    channels.promote(store, "latest", selection="two", when="", why="")
    assert [move.selection for move in channels.history(store, "latest")] == ["two", "one"]
