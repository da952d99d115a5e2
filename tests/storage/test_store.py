"""The contract of a store, for every store there is."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import Child, wait_until
from xmas_job.storage.roots import open_store
from xmas_job.storage.store import Store

NUM_ROUNDS = 300


def keys(store: Store, prefix: str) -> list[str]:
    return [entry.key for entry in store.list(prefix)]


def test_put_is_read_back_and_replaced(store: Store) -> None:
    store.put("a/b", b"one")
    assert store.read("a/b") == b"one"
    store.put("a/b", b"")
    assert store.read("a/b") == b""


def test_create_writes_once(store: Store) -> None:
    assert store.create("a/b", b"one") is True
    assert store.create("a/b", b"two") is False
    assert store.read("a/b") == b"one"


def test_create_after_delete_writes_again(store: Store) -> None:
    store.create("a", b"one")
    store.delete("a")
    assert not store.exists("a")
    assert store.create("a", b"two") is True
    assert store.read("a") == b"two"


def test_delete_of_nothing_does_nothing(store: Store) -> None:
    store.delete("a/b")


@pytest.mark.parametrize("read", [Store.read, Store.open])
def test_reading_nothing_is_file_not_found(store: Store, read: Callable[[Store, str], object]) -> None:
    with pytest.raises(FileNotFoundError):
        getattr(store, read.__name__)("a/b")


def test_copy_of_nothing_is_file_not_found_and_leaves_nothing(store: Store) -> None:
    with pytest.raises(FileNotFoundError):
        store.copy("a", "b")
    assert keys(store, "") == []


def test_size_and_existence(store: Store) -> None:
    store.put("a/b", b"12345")
    assert (store.exists("a/b"), store.size("a/b")) == (True, 5)
    assert (store.exists("a/c"), store.size("a/c")) == (False, None)
    assert store.exists("a") is False, "a folder is no object"


def test_open_is_seekable(store: Store) -> None:
    store.put("a", b"0123456789")
    with store.open("a") as stream:
        stream.seek(-3, 2)
        assert stream.read() == b"789"
        stream.seek(2)
        assert stream.read(2) == b"23"


def test_upload_moves_the_file(store: Store, tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.write_bytes(b"x" * 100_000)
    store.put("a/b", b"old")
    store.upload(local, "a/b")
    assert store.read("a/b") == b"x" * 100_000
    assert not local.exists()


def test_copy_keeps_the_source(store: Store) -> None:
    store.put("a", b"one")
    store.put("b/c", b"old")
    store.copy("a", "b/c")
    assert (store.read("a"), store.read("b/c")) == (b"one", b"one")


def test_list_is_in_key_order_and_by_folder(store: Store) -> None:
    for key in ("a/z", "a/b/c", "a/b-c", "ab/c", "a/b/d", "b"):
        store.put(key, b"12")
    assert keys(store, "a") == ["a/b-c", "a/b/c", "a/b/d", "a/z"]
    assert keys(store, "a/b") == ["a/b/c", "a/b/d"]
    assert keys(store, "") == ["a/b-c", "a/b/c", "a/b/d", "a/z", "ab/c", "b"]
    assert keys(store, "none/there") == []
    assert [entry.size for entry in store.list("a/b")] == [2, 2]


def test_folders_are_those_right_below_and_no_files(store: Store) -> None:
    for key in ("a/v10/deep/file", "a/v9/file", "a/v9-1/file", "a/file", "b/c/d"):
        store.put(key, b"")
    assert sorted(store.folders("a")) == ["v10", "v9", "v9-1"]
    assert sorted(store.folders("")) == ["a", "b"]
    assert list(store.folders("none/there")) == []


def test_time_of_writing_grows_by_the_stores_own_clock(store: Store) -> None:
    store.put("a", b"")
    before = store.written_at("a")
    assert before is not None
    wait_until(lambda: store.put("a", b"") or (store.written_at("a") or 0) > before, "a later time", 5)
    assert store.written_at("b") is None


def test_list_goes_on_when_an_object_vanishes(store: Store) -> None:
    for key in ("a/1", "a/2", "a/3"):
        store.put(key, b"")
    entries = store.list("a")
    assert next(entries).key == "a/1"
    store.delete("a/2")
    assert [entry.key for entry in entries][-1] == "a/3"


def test_etag_changes_with_the_bytes(store: Store) -> None:
    store.put("a", b"one")
    (before,) = store.list("")
    assert list(store.list("")) == [before]
    wait_until(lambda: store.put("a", b"two") or next(store.list("")).etag != before.etag, "another etag", 5)


@pytest.mark.parametrize("key", ["../a", "a/../../b", "a/..", "/a", "/", "", "a\0b"])
def test_key_outside_the_root_is_refused(store: Store, tmp_path: Path, key: str) -> None:
    local = tmp_path / "local"
    local.write_bytes(b"kept")
    for call in (
        lambda: store.read(key),
        lambda: store.open(key),
        lambda: store.create(key, b""),
        lambda: store.put(key, b""),
        lambda: store.upload(local, key),
        lambda: store.copy("there", key),
        lambda: store.exists(key),
        lambda: store.size(key),
        lambda: store.delete(key),
        lambda: store.local_folder(key),
    ):
        store.put("there", b"")
        with pytest.raises(ValueError, match="is no key of a store"):
            call()
    assert keys(store, "") == ["there"]


def test_local_folder_holds_the_objects(store: Store) -> None:
    store.put("m/config.json", b"{}")
    store.put("m/deep/weights", b"123")
    folder = store.local_folder("m")
    assert (folder / "config.json").read_bytes() == b"{}"
    assert (folder / "deep/weights").read_bytes() == b"123"


def test_store_is_opened_again_by_its_uri(store: Store) -> None:
    store.put("a b/ü%20", b"one")
    assert not store.uri.endswith("/")
    again = open_store(store.uri)
    assert again.uri == store.uri
    assert again.read("a b/ü%20") == b"one"


# --- several processes ------------------------------------------------------------------------------------------------


def _create_all(uri: str, name: bytes, go: Path) -> list[str]:
    """Keys that this process created."""
    store = open_store(uri)
    wait_until(go.exists, "the start")
    return [key for number in range(40) if store.create(key := f"race/{number:02d}", name * 10_000)]


def test_create_race_of_eight_processes_has_one_winner_a_key(
    store: Store, start: Callable[..., Child], tmp_path: Path
) -> None:
    names = b"abcdefgh"
    go = tmp_path / "go"
    children = [start(_create_all, store.uri, names[i : i + 1], go) for i in range(8)]
    go.touch()
    won = {names[i : i + 1]: child.result() for i, child in enumerate(children)}
    assert sorted(key for created in won.values() for key in created) == [f"race/{number:02d}" for number in range(40)]
    for name, created in won.items():
        for key in created:
            assert store.read(key) == name * 10_000


def _replace_often(uri: str) -> None:
    store = open_store(uri)
    for number in range(NUM_ROUNDS):
        store.put("a/b", bytes([number % 251]) * 200_000)
    store.put("a/end", b"")


def test_reader_never_sees_a_part_while_a_writer_replaces(store: Store, start: Callable[..., Child]) -> None:
    store.put("a/b", b"\0" * 200_000)
    writer = start(_replace_often, store.uri)
    seen = set()
    while not store.exists("a/end"):
        data = store.read("a/b")
        assert len(data) == 200_000
        assert data == data[:1] * 200_000
        seen.add(data[:1])
        assert [key for key in keys(store, "") if key not in {"a/b", "a/end"}] == []
    writer.result()
    assert len(seen) > 1, "the reader saw only one version: the test proved nothing"


def test_store_reaches_another_process(store: Store) -> None:
    store.put("a", b"one")
    again: Store = pickle.loads(pickle.dumps(store))
    assert again.read("a") == b"one"
