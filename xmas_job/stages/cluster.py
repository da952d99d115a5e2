"""cluster: trajectories of the pool's alignment scores, and their k-means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from xmas_job.config import ClusterConfig
from xmas_job.core.kmeans import cluster
from xmas_job.core.trajectory import alignment_scores
from xmas_job.data.stored import is_first
from xmas_job.errors import BadDataError
from xmas_job.extraction.layout import absent_paths, checkpoints_of, signal_paths
from xmas_job.stage_io import Metrics, StageIO
from xmas_job.storage.record import Artifact
from xmas_job.storage.schemas import ABSENT, ASSIGNMENTS, POOL, centroid_schema, trajectory_schema
from xmas_job.storage.tables import lists_of, read_table


def run(section: ClusterConfig, io: StageIO) -> Metrics:
    """Write `trajectories.parquet`, `assignments.parquet`, `centroids.parquet` and `absent.parquet`, sorted by uid."""
    pool = read_table(io.artifact("pool"), "pool.parquet", POOL, ["uid", "modality"])
    with_image = pool.filter(pc.equal(pool["modality"], "image"))["uid"].combine_chunks()
    uids, trajectories = _trajectories(io.artifacts["extract"], with_image, section.score)
    absent = _absent(io.artifacts["extract"], with_image)
    if absent.num_rows == len(with_image):
        reasons = ", ".join(sorted(set(absent["reason"].to_pylist())))
        raise BadDataError(
            f"none of the {len(with_image)} examples with an image has a score: {reasons}.",
            "Raise extract.max_length if their images are cut off.",
        )
    if len(uids) + absent.num_rows != len(with_image):
        raise BadDataError(
            f"of {len(with_image)} examples with an image, {len(uids)} have a score and {absent.num_rows} a reason.",
            "Run the extract stage again.",
        )
    vectors = trajectories.reshape(len(trajectories), math.prod(trajectories.shape[1:]))
    result = cluster(
        vectors,
        num_clusters=section.num_clusters,
        num_iterations=section.num_iterations,
        max_points_per_centroid=section.max_points_per_centroid,
        seed=section.seed,
    )
    io.output.table("absent.parquet", absent, ABSENT)
    io.output.table(
        "trajectories.parquet",
        pa.table({"uid": uids, "trajectory": lists_of(trajectories)}),
        trajectory_schema(*trajectories.shape[1:]),
    )
    io.output.table(
        "assignments.parquet",
        pa.table({"uid": uids, "cluster": result.assignments, "distance": result.distances}),
        ASSIGNMENTS,
    )
    io.output.table(
        "centroids.parquet",
        pa.table(
            {
                "cluster": np.arange(section.num_clusters, dtype=np.int32),
                "size": result.sizes,
                "vector": lists_of(result.centroids),
            }
        ),
        centroid_schema(vectors.shape[1]),
    )
    return {
        "num_examples": len(uids),
        "num_absent": absent.num_rows,
        "num_clusters": section.num_clusters,
        "num_empty_clusters": int((result.sizes == 0).sum()),
        "largest_cluster": int(result.sizes.max()),
        "mean_distance": float(result.distances.mean(dtype=np.float64)),
    }


def _trajectories(
    extracted: Sequence[Artifact], wanted: pa.Array, score: Literal["sum", "values"]
) -> tuple[pa.Array, NDArray[np.float32]]:
    """Uids (sorted) and trajectories of the wanted examples that have them: (N, T) sums or (N, T, D) values."""
    columns = []
    first_uids: pa.Array | None = None
    for checkpoint in checkpoints_of(extracted[0]):
        parts = [read_table(art, path) for art in extracted for path in signal_paths(art, checkpoint)]
        # A part without rows may not know the width of its values.
        table = pa.concat_tables([part.select(["uid", "value"]) for part in parts if part.num_rows] or parts[:1])
        table = table.filter(pc.is_in(table["uid"], wanted)).sort_by("uid").combine_chunks()
        table = table.filter(is_first(table["uid"]))
        values = table["value"].combine_chunks()
        uids = table["uid"].combine_chunks()
        if first_uids is not None and not uids.equals(first_uids):
            raise BadDataError(f"checkpoint {checkpoint} has scores of other examples.", "Run the extract stage again.")
        first_uids = uids
        values_ND = values.flatten().to_numpy().reshape(len(uids), values.type.list_size)
        columns.append(alignment_scores(values_ND) if score == "sum" else values_ND)
    assert first_uids is not None
    return first_uids, np.stack(columns, axis=1)


def _absent(extracted: Sequence[Artifact], wanted: pa.Array) -> pa.Table:
    """Wanted examples without a score, with the reason."""
    # The same example may have landed in two versions: one row a uid.
    table = pa.concat_tables([read_table(art, path, ABSENT) for art in extracted for path in absent_paths(art)])
    table = table.filter(pc.is_in(table["uid"], wanted)).sort_by("uid").combine_chunks()
    return table.filter(is_first(table["uid"]))
