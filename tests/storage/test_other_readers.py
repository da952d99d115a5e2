"""What is published opens in the libraries that teams use, with the same values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xmas_job.storage import schemas
from xmas_job.storage.tables import VERSION_KEY, write_table

SCHEMAS: dict[str, pa.Schema] = {
    **{name: value for name, value in vars(schemas).items() if isinstance(value, pa.Schema)},
    "SIGNAL": schemas.signal_schema(3),
    "TRAJECTORY": schemas.trajectory_schema(3),
    "CENTROID": schemas.centroid_schema(3),
}
NULLABLE = {"width", "height", "kept_in", "instability"}


def value_of(kind: pa.DataType, row: int) -> Any:
    if pa.types.is_string(kind):
        return f"naïve 例 {row}"
    if pa.types.is_boolean(kind):
        return row % 2 == 0
    if pa.types.is_integer(kind):
        return row - 1
    if pa.types.is_floating(kind):
        return row + 0.25
    if pa.types.is_struct(kind):
        return {field.name: value_of(field.type, row) for field in kind}
    length = kind.list_size if pa.types.is_fixed_size_list(kind) else row
    return [value_of(kind.value_type, row + place) for place in range(length)]


def table_of(schema: pa.Schema) -> pa.Table:
    rows = [
        {field.name: None if row == 2 and field.name in NULLABLE else value_of(field.type, row) for field in schema}
        for row in range(3)
    ]
    return pa.Table.from_pylist(rows, schema)


def with_pyarrow(path: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(path).to_pylist())


def with_duckdb(path: Path) -> list[dict[str, Any]]:
    found = duckdb.connect().execute("SELECT * FROM read_parquet(?)", [str(path)])
    names = [column[0] for column in found.description]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def with_pandas(path: Path) -> list[dict[str, Any]]:
    return list(pd.read_parquet(path, dtype_backend="pyarrow").to_dict("records"))


def with_polars(path: Path) -> list[dict[str, Any]]:
    return pl.read_parquet(path).to_dicts()


def with_datasets(path: Path) -> list[dict[str, Any]]:
    read = datasets.Dataset.from_parquet(str(path), cache_dir=str(path.parent / "cache"))
    return list(read.to_list())


READERS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    name.removeprefix("with_"): read for name, read in list(globals().items()) if name.startswith("with_")
}


def plain(value: Any) -> Any:
    """Sequences as lists, missing values as None: the libraries have forms of their own."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if not isinstance(value, str) and hasattr(value, "__len__"):
        return [plain(part) for part in value]
    return None if value is None or value is pd.NA or value != value else value


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", SCHEMAS)
def test_table_opens_elsewhere_with_the_same_values(tmp_path: Path, name: str, reader: str) -> None:
    table = table_of(SCHEMAS[name])
    write_table(table, tmp_path / "table.parquet", SCHEMAS[name])
    assert plain(READERS[reader](tmp_path / "table.parquet")) == plain(table.to_pylist())


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_table_states_its_version(tmp_path: Path, name: str) -> None:
    write_table(table_of(SCHEMAS[name]), tmp_path / "table.parquet", SCHEMAS[name])
    assert pq.read_schema(tmp_path / "table.parquet").metadata[VERSION_KEY] == b"1"
