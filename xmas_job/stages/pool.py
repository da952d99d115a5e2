"""pool: the union of the ingested versions; takedowns first, then duplicates.

`check_request` refuses a run whose request the pool cannot serve, before anything costly starts.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from xmas_job.catalog.methods import find_method
from xmas_job.config import PoolConfig
from xmas_job.core.budget import resolve_budget
from xmas_job.data.stored import is_first
from xmas_job.errors import BadDataError, UsageError
from xmas_job.runner import Run
from xmas_job.stage_io import Metrics, StageIO
from xmas_job.stages.select import build_method
from xmas_job.storage.record import Artifact
from xmas_job.storage.schemas import DROPPED, EXAMPLES, POOL
from xmas_job.storage.tables import read_table

COLUMNS = ["uid", "source", "source_uri", "source_row", "modality"]


def run(section: PoolConfig, io: StageIO) -> Metrics:
    """Write `pool.parquet` (one row an example, sorted by uid) and `dropped.parquet` (what is not in it, and why)."""
    rows = _all_rows(io.artifacts["ingest"])
    excluded = pc.is_in(rows["uid"], pa.array(section.excluded_uids, pa.string()))
    taken_down, rows = rows.filter(excluded), rows.filter(pc.invert(excluded))
    is_kept = is_first(rows["uid"])
    pool, duplicates = rows.filter(is_kept), rows.filter(pc.invert(is_kept))
    if pool.num_rows == 0:
        raise BadDataError(
            f"the pool is empty: {rows.num_rows} rows after {taken_down.num_rows} takedowns.",
            "Look at the quarantine of the ingest stage, or at pool.excluded_uids.",
        )
    places = pool["dataset"].take(pc.index_in(duplicates["uid"], pool["uid"].combine_chunks()))
    dropped = [
        _dropped(taken_down, "excluded", pa.nulls(taken_down.num_rows, pa.string())),
        _dropped(duplicates, "duplicate", places),
    ]
    io.output.table("pool.parquet", pool.select(POOL.names), POOL)
    io.output.table("dropped.parquet", pa.concat_tables(dropped), DROPPED)
    num_text_only = pc.sum(pc.equal(pool["modality"], "text")).as_py()
    return {
        "num_examples": pool.num_rows,
        "num_text_only": num_text_only,
        "num_excluded": taken_down.num_rows,
        "num_duplicates": duplicates.num_rows,
    }


def check_request(artifact: Artifact, run: Run, _: str) -> None:
    """Refuse a method's parameters, or a budget or a number of clusters that this pool cannot serve.

    Raises:
        UsageError: naming what to ask for instead.
    """
    num_examples, num_text_only = artifact.record.metrics["num_examples"], artifact.record.metrics["num_text_only"]
    assert isinstance(num_examples, int)
    assert isinstance(num_text_only, int)
    num_with_image = num_examples - num_text_only
    select = run.config.select
    build_method(select)
    resolve_budget(run.config.publish.budget, num_with_image if select.text_only == "exclude" else num_examples)
    method = find_method(select.method)
    if num_with_image == 0 and method.signal_names:
        raise UsageError(
            f"method {select.method!r} needs {', '.join(method.signal_names)}, but none of {num_examples} examples "
            "has an image.",
            "Land examples with images, or choose a method without signals: random.",
        )
    if method.clustering:
        section, asked = (
            ("cluster", run.config.cluster.num_clusters)
            if method.clustering.by == "k-means"
            else ("selector", run.config.selector.num_clusters if run.config.selector.uri is None else None)
        )
        if asked is not None and asked > num_with_image:
            raise UsageError(
                f"{section}.num_clusters is {asked}, but {num_with_image} examples have an image.",
                f"Set {section}.num_clusters well below {num_with_image}.",
            )


def _all_rows(ingested: Sequence[Artifact]) -> pa.Table:
    tables = []
    for order, artifact in enumerate(ingested):
        table = read_table(artifact, "examples.parquet", EXAMPLES, COLUMNS)
        dataset = artifact.node_id.partition(":")[2]
        table = table.append_column("dataset", pa.repeat(dataset, len(table)))
        tables.append(table.append_column("order", pa.repeat(pa.scalar(order, pa.int32()), len(table))))
    rows = pa.concat_tables(tables)
    return rows.sort_by(
        [("uid", "ascending"), ("order", "ascending"), ("source_uri", "ascending"), ("source_row", "ascending")]
    )


def _dropped(rows: pa.Table, reason: str, kept_in: pa.Array | pa.ChunkedArray) -> pa.Table:
    dropped = rows.append_column("reason", pa.repeat(reason, rows.num_rows)).append_column("kept_in", kept_in)
    return dropped.select(DROPPED.names)
