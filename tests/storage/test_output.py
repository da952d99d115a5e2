from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pytest

from xmas_job.storage.output import Output
from xmas_job.storage.schemas import ABSENT
from xmas_job.storage.store import Store


@pytest.fixture
def output(store: Store, tmp_path: Path) -> Output:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return Output(store, "artifacts/s/f", "attempts/3", scratch)


def stored(store: Store) -> dict[str, bytes]:
    return {entry.key.removeprefix("artifacts/s/f/"): store.read(entry.key) for entry in store.list("")}


def test_files_lie_under_the_own_attempt_and_are_listed(output: Output, store: Store) -> None:
    output.data("a/raw", b"123")
    output.json("b.json", {"z": 1, "a": [1.5, None]})
    assert stored(store) == {"attempts/3/a/raw": b"123", "attempts/3/b.json": b'{"a":[1.5,null],"z":1}\n'}
    raw = output.files["a/raw"]
    assert (raw.path, raw.location, raw.bytes, raw.rows) == ("a/raw", "attempts/3/a/raw", 3, None)
    assert raw.sha256 == hashlib.sha256(b"123").hexdigest() == output.sha256("a/raw")


def test_table_is_listed_with_its_rows(output: Output, store: Store) -> None:
    table = pa.table({"uid": ["a", "b"], "reason": ["x", "y"]})
    output.table("t.parquet", table, ABSENT)
    assert output.files["t.parquet"].rows == 2
    assert output.files["t.parquet"].bytes == len(stored(store)["attempts/3/t.parquet"])


def test_table_of_another_schema_is_refused_and_not_written(output: Output, store: Store) -> None:
    with pytest.raises(ValueError, match=r"t\.parquet: columns"):
        output.table("t.parquet", pa.table({"uid": ["a"]}), ABSENT)
    assert stored(store) == {}
    assert output.files == {}


def test_folder_is_written_when_its_block_ends(output: Output, store: Store) -> None:
    with output.folder("model") as folder:
        (folder / "deep").mkdir()
        (folder / "deep/weights").write_bytes(b"w")
        (folder / "config.json").write_bytes(b"{}")
        assert stored(store) == {}
    assert stored(store) == {"attempts/3/model/config.json": b"{}", "attempts/3/model/deep/weights": b"w"}
    assert sorted(output.files) == ["model/config.json", "model/deep/weights"]


def test_folder_whose_block_fails_writes_nothing(output: Output, store: Store) -> None:
    with pytest.raises(FileNotFoundError), output.folder("model") as folder:
        (folder / "config.json").write_bytes((folder / "none").read_bytes())
    assert stored(store) == {}
    assert output.files == {}


def test_file_is_filled_by_its_writer(output: Output, store: Store) -> None:
    output.file("exports/llava.json", lambda path: path.write_text("[]") and None, rows=0)
    assert stored(store) == {"attempts/3/exports/llava.json": b"[]"}
    assert output.files["exports/llava.json"].rows == 0


def test_nothing_stays_in_scratch(output: Output) -> None:
    output.data("a/raw", b"123")
    with output.folder("model") as folder:
        (folder / "x").write_bytes(b"")
    assert [path for path in output.scratch.rglob("*") if path.is_file()] == []
