"""The tables in which clusters lie, whoever made them: k-means of this pool, or a trained selector."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from xmas_job.core.kmeans import Clustering
from xmas_job.stage_io import Metrics
from xmas_job.storage.output import Output
from xmas_job.storage.schemas import ABSENT, ASSIGNMENTS, centroid_schema
from xmas_job.storage.tables import lists_of


def write_clusters(output: Output, uids: pa.Array, clustering: Clustering, absent: pa.Table) -> Metrics:
    """Write `absent.parquet`, `assignments.parquet` and `centroids.parquet`; what to tell of them."""
    num_clusters, width = clustering.centroids.shape
    output.table("absent.parquet", absent, ABSENT)
    output.table(
        "assignments.parquet",
        pa.table({"uid": uids, "cluster": clustering.assignments, "distance": clustering.distances}),
        ASSIGNMENTS,
    )
    output.table(
        "centroids.parquet",
        pa.table(
            {
                "cluster": np.arange(num_clusters, dtype=np.int32),
                "size": clustering.sizes,
                "vector": lists_of(clustering.centroids),
            }
        ),
        centroid_schema(width),
    )
    return {
        "num_examples": len(uids),
        "num_absent": absent.num_rows,
        "num_clusters": num_clusters,
        "num_empty_clusters": int((clustering.sizes == 0).sum()),
        "largest_cluster": int(clustering.sizes.max()),
        "mean_distance": float(clustering.distances.mean(dtype=np.float64)),
    }
