from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.processes import Child, wait_until
from tests.s3_servers import S3Server
from tests.storage.conftest import open_s3
from xmas_job.storage.copies import LocalCopies
from xmas_job.storage.roots import open_store
from xmas_job.storage.store import Entry, Store


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def copies_of(scratch: Path) -> list[Path]:
    return [path for path in (scratch / "cache/copies").glob("*/*") if path.is_file()]


def total(scratch: Path) -> int:
    return sum(path.stat().st_size for path in copies_of(scratch))


def test_known_bytes_are_fetched_once(tmp_path: Path) -> None:
    fetched = []

    def fetch() -> bytes:
        fetched.append(1)
        return b"abc"

    for _ in range(3):  # as three processes would
        assert LocalCopies(tmp_path, 1000).read_known(digest(b"abc"), fetch) == b"abc"
    assert len(fetched) == 1


def test_other_bytes_are_returned_and_not_kept(tmp_path: Path) -> None:
    copies = LocalCopies(tmp_path, 1000)
    assert copies.read_known(digest(b"abc"), lambda: b"other") == b"other"
    assert copies.read_known(digest(b"abc"), lambda: b"abc") == b"abc"


def test_damaged_copy_is_fetched_anew(tmp_path: Path) -> None:
    copies = LocalCopies(tmp_path, 1000)
    copies.read_known(digest(b"abc"), lambda: b"abc")
    (copy,) = copies_of(tmp_path)
    copy.write_bytes(b"abd")
    assert copies.read_known(digest(b"abc"), lambda: b"abc") == b"abc"
    assert copy.read_bytes() == b"abc"


def test_what_was_used_last_stays_within_the_limit(tmp_path: Path) -> None:
    copies = LocalCopies(tmp_path, 100_000)
    blocks = [bytes([number]) * 1000 for number in range(250)]
    for number, block in enumerate(blocks):
        copies.read_known(digest(block), lambda block=block: block)
        os.utime(next(path for path in copies_of(tmp_path) if path.name.endswith(digest(block))), (number, number))
        copies.read_known(digest(blocks[0]), lambda: blocks[0])
        assert total(tmp_path) <= 100_000
    names = {path.name for path in copies_of(tmp_path)}
    assert f"sha256-{digest(blocks[0])}" in names, "it is used all the time"
    assert f"sha256-{digest(blocks[249])}" in names
    assert f"sha256-{digest(blocks[1])}" not in names


def test_folder_in_use_outlives_the_eviction_of_its_copies(tmp_path: Path) -> None:
    copies = LocalCopies(tmp_path, 100)

    def download(entry: Entry, stream: BinaryIO) -> None:
        stream.write(entry.key.encode() * 50)

    big = {f"deep/{key}": Entry(key, 50, "etag") for key in "abcdef"}  # three times the limit
    folder = copies.folder("s3://b", big, download)
    copies.folder("s3://b", {"x": Entry("x", 50, "etag")}, download)
    assert {path.name: path.read_bytes() for path in (folder / "deep").iterdir()} == {
        k: k.encode() * 50 for k in "abcdef"
    }
    assert total(tmp_path) <= 150


def test_download_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def download(_: Entry, stream: BinaryIO) -> None:
        stream.write(b"half")
        raise ConnectionError

    copies = LocalCopies(tmp_path, 1000)
    with pytest.raises(ConnectionError):
        copies.folder("s3://b", {"a": Entry("a", 8, "e")}, download)
    assert copies_of(tmp_path) == []
    assert list((tmp_path / "cache/unfinished").iterdir()) == []


def test_folder_follows_what_is_in_the_store(moto: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_s3(moto, tmp_path, monkeypatch)
    store.put("m/a", b"one")
    before = store.local_folder("m")
    assert store.local_folder("m") == before
    store.put("m/a", b"two")
    assert (store.local_folder("m") / "a").read_bytes() == b"two"
    assert (before / "a").read_bytes() == b"one", "what a library has open does not change under it"


# --- several processes ------------------------------------------------------------------------------------------------


def _read_folder(uri: str, go: Path) -> dict[str, str]:
    wait_until(go.exists, "the start")
    folder = open_store(uri).local_folder("m")
    return {path.name: digest(path.read_bytes()) for path in folder.iterdir()}


def test_processes_share_one_bounded_cache(
    moto: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Callable[..., Child]
) -> None:
    """More than the limit, so that each evicts what the others are about to link."""
    monkeypatch.setenv("XMAS_CACHE_BYTES", "300000")
    store = open_s3(moto, tmp_path, monkeypatch)
    files = {f"{number}": bytes([number]) * 100_000 for number in range(6)}
    for name, data in files.items():
        store.put(f"m/{name}", data)
    go = tmp_path / "go"
    children = [start(_read_folder, store.uri, go) for _ in range(6)]
    go.touch()
    expected = {name: digest(data) for name, data in files.items()}
    assert [child.result() for child in children] == [expected] * 6
    assert list((tmp_path / "scratch-of-stores/cache/unfinished").iterdir()) == []


def _die_in_a_download(scratch: Path) -> None:
    def download(_: Entry, stream: BinaryIO) -> None:
        stream.write(b"half")
        stream.flush()
        os._exit(9)

    LocalCopies(scratch, 1000).folder("s3://b", {"a": Entry("a", 8, "e")}, download)


def test_half_a_download_of_a_dead_process_is_never_used(tmp_path: Path, start: Callable[..., Child]) -> None:
    child = start(_die_in_a_download, tmp_path)
    wait_until(lambda: not child._process.is_alive(), "its end")
    assert len(list((tmp_path / "cache/unfinished").iterdir())) == 1
    copies = LocalCopies(tmp_path, 1000)
    folder = copies.folder("s3://b", {"a": Entry("a", 8, "e")}, lambda _, stream: stream.write(b"whole 8b") and None)
    assert (folder / "a").read_bytes() == b"whole 8b"
    assert list((tmp_path / "cache/unfinished").iterdir()) == []
    assert [path.name for path in tmp_path.glob("attempt-*")] == [folder.parent.name]


def test_store_reads_known_bytes_from_their_copy(
    moto: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store: Store = open_s3(moto, tmp_path, monkeypatch)
    store.put("a", b"one")
    assert store.read_known("a", digest(b"one")) == b"one"
    store.put("a", b"two")
    assert store.read_known("a", digest(b"one")) == b"one"
    assert store.read_known("a", digest(b"three")) == b"two"
