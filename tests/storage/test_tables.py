from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xmas_job.errors import BadDataError
from xmas_job.storage import schemas
from xmas_job.storage.record import Artifact, Record, StoredFile
from xmas_job.storage.store import Store
from xmas_job.storage.tables import read_table, write_table

POOL = pa.table({"uid": ["a", "b"], "source": ["s", None], "modality": ["image", "text"], "dataset": ["d@v1", "d@v1"]})


def as_artifact(store: Store, path: Path) -> Artifact:
    data = path.read_bytes()
    store.put("x/t.parquet", data)
    file = StoredFile("t.parquet", "t.parquet", hashlib.sha256(data).hexdigest(), len(data))
    return Artifact(store, "x", Record("s", 1, "f", {}, {}, (file,), "d", {}))


def test_table_survives_the_way_through_its_file(store: Store, tmp_path: Path) -> None:
    write_table(POOL, tmp_path / "t", schemas.POOL)
    artifact = as_artifact(store, tmp_path / "t")
    assert read_table(artifact, "t.parquet", schemas.POOL).to_pylist() == POOL.to_pylist()
    assert read_table(artifact, "t.parquet", schemas.POOL, ["modality", "uid"]).column_names == ["modality", "uid"]
    assert read_table(artifact, "t.parquet").num_rows == 2


def test_equal_tables_have_equal_bytes(tmp_path: Path) -> None:
    write_table(POOL, tmp_path / "one", schemas.POOL)
    chunked = pa.concat_tables([POOL.slice(0, 1), POOL.slice(1)])
    write_table(chunked, tmp_path / "two", schemas.POOL)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_file_is_zstd_and_names_its_schema_version(tmp_path: Path) -> None:
    write_table(POOL, tmp_path / "t", schemas.POOL)
    metadata = pq.read_metadata(tmp_path / "t")
    assert metadata.row_group(0).column(0).compression == "ZSTD"
    assert metadata.metadata[b"xmas_schema_version"] == b"1"


@pytest.mark.parametrize("columns", [["uid"], ["source", "uid", "modality", "dataset"]])
def test_wrong_columns_are_refused_on_write(tmp_path: Path, columns: list[str]) -> None:
    with pytest.raises(ValueError, match="columns"):
        write_table(POOL.select(columns), tmp_path / "t", schemas.POOL)


def test_value_that_does_not_fit_its_type_is_refused_on_write(tmp_path: Path) -> None:
    table = pa.table({"uid": ["a"], "cluster": [2**40], "distance": [0.0]})
    with pytest.raises(ValueError, match="1099511627776"):
        write_table(table, tmp_path / "t", schemas.ASSIGNMENTS)


def test_changed_byte_is_found_on_read(store: Store, tmp_path: Path) -> None:
    write_table(POOL, tmp_path / "t", schemas.POOL)
    artifact = as_artifact(store, tmp_path / "t")
    data = bytearray(store.read("x/t.parquet"))
    data[len(data) // 2] ^= 1
    store.put("x/t.parquet", bytes(data))
    with pytest.raises(BadDataError, match="other bytes"):
        read_table(artifact, "t.parquet", schemas.POOL)


@pytest.mark.parametrize("columns", [None, ["uid", "reason"]])
def test_table_of_another_schema_is_refused_on_read(store: Store, tmp_path: Path, columns: list[str] | None) -> None:
    write_table(POOL, tmp_path / "t", schemas.POOL)
    with pytest.raises(BadDataError, match="is not the table it should be"):
        read_table(as_artifact(store, tmp_path / "t"), "t.parquet", schemas.ABSENT, columns)


@pytest.mark.parametrize(("metadata", "found"), [({b"xmas_schema_version": b"2"}, "2"), (None, "none")])
def test_other_schema_version_is_refused_with_its_number(
    store: Store, tmp_path: Path, metadata: dict[bytes, bytes] | None, found: str
) -> None:
    pq.write_table(POOL.replace_schema_metadata(metadata), tmp_path / "t")
    with pytest.raises(BadDataError, match=f"has schema version {found}; this xmas-job reads 1"):
        read_table(as_artifact(store, tmp_path / "t"), "t.parquet", schemas.POOL)


def test_shaped_schemas_carry_their_width() -> None:
    assert schemas.signal_schema(5).field("value").type == pa.list_(pa.float32(), 5)
    assert schemas.trajectory_schema(7).field("trajectory").type.list_size == 7
    assert schemas.centroid_schema(7).names == ["cluster", "size", "vector"]
