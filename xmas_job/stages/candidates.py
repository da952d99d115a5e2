"""What a method chooses from, as arrays: the one place where its catalogue entry meets the stages' tables."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from xmas_job.catalog.methods import MethodEntry
from xmas_job.selection.contract import CandidatePool, TextOnlyPolicy
from xmas_job.stage_io import StageIO
from xmas_job.storage.schemas import ABSENT, ASSIGNMENTS, POOL
from xmas_job.storage.tables import array_of, read_table


def candidate_pool(method: MethodEntry, text_only: TextOnlyPolicy, io: StageIO) -> tuple[CandidatePool, int]:
    """The pool with the method's signals and clusters, and how many examples it lacks because they have no signal.

    A method without signals sees every example.
    """
    table = read_table(io.artifact("pool"), "pool.parquet", POOL, ["uid", "modality", "source"])
    pool = CandidatePool(
        uids=table["uid"].to_numpy().astype(str),
        has_image=table["modality"].to_numpy() == "image",
        sources=table["source"].to_numpy().astype(str),
        # Their rows are those of the whole pool: without signals nothing is absent.
        signals={},
        cluster_ids=None,
        text_only=text_only,
    )
    return _with_clusters(pool, method, io) if method.clustering else (pool, 0)


def _with_clusters(pool: CandidatePool, method: MethodEntry, io: StageIO) -> tuple[CandidatePool, int]:
    """The pool without the examples that the cluster stage found absent, and the trajectories it clustered."""
    clustered = io.artifact("cluster")
    absent = read_table(clustered, "absent.parquet", ABSENT)["uid"].to_numpy().astype(str)
    is_there = ~np.isin(pool.uids, absent)
    uids, has_image = pool.uids[is_there], pool.has_image[is_there]
    assignments = read_table(clustered, "assignments.parquet", ASSIGNMENTS)
    assert np.array_equal(uids[has_image], assignments["uid"].to_numpy().astype(str)), "cluster and pool disagree"
    values = read_table(clustered, "trajectories.parquet")
    assert method.clustered_signal is not None
    assert pool.sources is not None
    narrowed = replace(
        pool,
        uids=uids,
        has_image=has_image,
        sources=pool.sources[is_there],
        signals={method.clustered_signal: array_of(values["trajectory"])},
        cluster_ids=assignments["cluster"].to_numpy().astype(np.int32),
        centroids=array_of(read_table(clustered, "centroids.parquet")["vector"]),
    )
    return narrowed, absent.size
