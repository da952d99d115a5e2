"""cluster: k-means of one signal of the pool's examples: of trajectories over checkpoints, or of vectors."""

from __future__ import annotations

import math
from functools import partial

import pyarrow as pa

from xmas_job.catalog.methods import SignalNeed
from xmas_job.catalog.signals import SIGNALS
from xmas_job.core.kmeans import cluster, in_memory, supported_clusters
from xmas_job.sections import ClusterSection
from xmas_job.stage_io import Metrics, StageIO
from xmas_job.stages.cluster_tables import write_clusters
from xmas_job.stages.stored_signals import join_signal, mapped_array, read_absent, uids_with_image, without
from xmas_job.storage.schemas import trajectory_schema
from xmas_job.storage.tables import lists_of


def run(section: ClusterSection, io: StageIO) -> Metrics:
    """Write `assignments.parquet`, `centroids.parquet` and `absent.parquet`, sorted by uid.

    Trajectories are written too, as `trajectories.parquet`; vectors stay where they are.
    """
    with_image = uids_with_image(io.artifact("pool"))
    signal = SIGNALS[section.signal]
    parts = io.artifacts[signal.stage]
    absent = read_absent(parts, [section.signal], with_image)
    uids = without(with_image, absent)
    need = SignalNeed(section.signal, section.checkpoints)
    features = join_signal(parts, need, uids, io.output.scratch, section.score)
    num_clusters = supported_clusters(section.num_clusters, len(uids)) if section.is_most else section.num_clusters
    vectors = features.reshape(len(features), math.prod(features.shape[1:]))
    result = cluster(
        vectors,
        num_clusters=num_clusters,
        num_iterations=section.num_iterations,
        max_points_per_centroid=section.max_points_per_centroid,
        seed=section.seed,
        spherical=section.spherical,
        allocate=partial(mapped_array, io.output.scratch / "training") if signal.is_vector else in_memory,
    )
    if not signal.is_vector:
        trajectories = features if features.ndim > 1 else features[:, None]
        io.output.table(
            "trajectories.parquet",
            pa.table({"uid": uids, "trajectory": lists_of(trajectories)}),
            trajectory_schema(*trajectories.shape[1:]),
        )
    return write_clusters(io.output, uids, result, absent)
