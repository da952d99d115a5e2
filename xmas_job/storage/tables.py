"""Parquet tables: written to a local file by their schema, read back and checked against it.

Owns the encoding (zstd, schema version in the file's metadata). Equal tables have equal bytes.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from xmas_job.errors import BadDataError
from xmas_job.storage.record import Artifact
from xmas_job.storage.schemas import SCHEMA_VERSION

ROWS_PER_GROUP = 65_536
VERSION_KEY = b"xmas_schema_version"


def write_table(table: pa.Table, path: Path, schema: pa.Schema) -> None:
    """Write `table` to `path` as the table `schema` describes.

    Raises:
        ValueError: if the columns are not those of the schema, in its order.
    """
    if table.column_names != schema.names:
        raise ValueError(f"{path.name}: columns {table.column_names} are not {schema.names}")
    versioned = schema.with_metadata({VERSION_KEY: str(SCHEMA_VERSION).encode()})
    pq.write_table(table.cast(versioned), path, compression="zstd", row_group_size=ROWS_PER_GROUP)


def read_table(
    artifact: Artifact,
    path: str,
    schema: pa.Schema | None = None,
    columns: list[str] | None = None,
    *,
    uids: pa.Array | None = None,
) -> pa.Table:
    """The table named `path`, its bytes checked against the record and its columns against `schema`.

    Args:
        artifact: holds the file.
        path: name of the file in the artifact.
        schema: what it must be; None where the schema depends on the run (signals, trajectories).
        columns: read only these.
        uids: keep only the rows of these; costs memory for what is kept, not for the whole table.

    Raises:
        BadDataError: if the bytes have changed, or the table is of another schema or version.
    """
    file = pq.ParquetFile(io.BytesIO(artifact.read(path)))
    version = (file.schema_arrow.metadata or {}).get(VERSION_KEY, b"none").decode()
    if version != str(SCHEMA_VERSION):
        raise BadDataError(
            f"{artifact.key(path)} has schema version {version}; this xmas-job reads {SCHEMA_VERSION}.",
            "Read it with the xmas-job that wrote it, or build it anew.",
        )
    if schema is not None and not file.schema_arrow.equals(schema):
        raise BadDataError(
            f"{artifact.key(path)} is not the table it should be: its columns are {file.schema_arrow.names}.",
            "Build it anew.",
        )
    table = file.read(columns) if uids is None else _read_rows_of(uids, file, columns)
    return table.select(columns) if columns else table


def _read_rows_of(uids: pa.Array, file: pq.ParquetFile, columns: list[str] | None) -> pa.Table:
    kept = []
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, columns)
        kept.append(table.filter(pc.is_in(table["uid"], uids)))
    return pa.concat_tables(kept) if kept else file.read(columns)


def array_of(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """Shape (N, T) of fixed-size lists, (N, T, D) of fixed-size lists of those."""
    array = column.combine_chunks()
    shape = [len(array)]
    while pa.types.is_fixed_size_list(array.type):
        shape.append(array.type.list_size)
        array = array.flatten()
    values: NDArray[np.float32] = array.to_numpy().reshape(shape)
    return values


def lists_of(array: NDArray[np.float32]) -> pa.Array:
    """Fixed-size lists from (N, T), lists of lists from (N, T, D)."""
    column = pa.array(array.ravel(), pa.float32())
    for size in array.shape[:0:-1]:
        column = pa.FixedSizeListArray.from_arrays(column, size)
    return column
