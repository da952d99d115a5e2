"""What is special to the store in a folder: what a crash or a full disk leaves."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import Child, wait_until
from xmas_job.storage.local import UNFINISHED, LocalStore

TOO_MUCH = b"x" * 2_000_000
"""Twice the small disk."""


def write_everything(store: LocalStore, local: Path) -> dict[str, Callable[[], object]]:
    return {
        "create": lambda: store.create("a/b", TOO_MUCH),
        "put": lambda: store.put("a/b", TOO_MUCH),
        "upload": lambda: store.upload(local, "a/b"),
        "copy": lambda: store.copy("big", "a/b"),
    }


@pytest.mark.parametrize("how", ["create", "put", "upload", "copy"])
def test_full_disk_is_an_error_and_leaves_nothing(small_disk: Path, tmp_path: Path, how: str) -> None:
    store = LocalStore(small_disk)
    local = tmp_path / "local"
    local.write_bytes(TOO_MUCH)
    if how == "copy":
        store.put("big", TOO_MUCH[:700_000])  # a second one does not fit
    with pytest.raises(OSError, match="No space left") as caught:
        write_everything(store, local)[how]()
    assert caught.value.errno == errno.ENOSPC
    assert [entry.key for entry in store.list("a")] == []
    assert list((small_disk / UNFINISHED).iterdir()) == []
    assert local.read_bytes() == TOO_MUCH, "a file that was not uploaded stays"


def test_full_disk_keeps_what_was_there(small_disk: Path) -> None:
    store = LocalStore(small_disk)
    store.put("a", b"old")
    with pytest.raises(OSError, match="No space left"):
        store.put("a", TOO_MUCH)
    assert store.read("a") == b"old"


def test_upload_from_another_file_system_moves_the_file(small_disk: Path, tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.write_bytes(b"x" * 1000)
    assert small_disk.stat().st_dev != tmp_path.stat().st_dev
    store = LocalStore(small_disk)
    store.upload(local, "a")
    assert store.read("a") == b"x" * 1000
    assert not local.exists()


def _write_for_ever(root: Path) -> None:
    store = LocalStore(root)
    for number in range(100_000):
        store.put("a/b", bytes([number % 251]) * 500_000)


def test_killed_writer_leaves_whole_objects_only(tmp_path: Path, start: Callable[..., Child]) -> None:
    store = LocalStore(tmp_path / "store")
    for _ in range(5):
        writer = start(_write_for_ever, tmp_path / "store")
        wait_until(lambda: list((tmp_path / "store" / UNFINISHED).glob("*")), "a file on its way")
        writer.kill()
        for entry in store.list(""):
            data = store.read(entry.key)
            assert len(data) == 500_000
            assert data == data[:1] * 500_000


def test_root_is_made_on_the_first_write_only(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    assert list(store.list("")) == []
    assert not store.exists("a")
    assert not (tmp_path / "store").exists()
    store.put("a", b"")
    assert (tmp_path / "store/a").is_file()


def test_relative_root_means_the_folder_it_named_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = LocalStore(Path("store"))
    monkeypatch.chdir(os.sep)
    store.put("a", b"")
    assert (tmp_path / "store/a").is_file()
