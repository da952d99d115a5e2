"""What a method chooses from, as arrays: the one place where its catalogue entry meets the stages' tables."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xmas_job.catalog.methods import MethodEntry
from xmas_job.catalog.needs import unclustered_needs
from xmas_job.catalog.signals import SIGNALS
from xmas_job.selection.contract import CandidatePool, TextOnlyPolicy
from xmas_job.stage_io import StageIO
from xmas_job.stages.stored_signals import first_reasons, join_signal, read_absent, without
from xmas_job.storage.record import Artifact
from xmas_job.storage.schemas import ABSENT, ASSIGNMENTS, POOL
from xmas_job.storage.tables import array_of, read_table


def candidate_pool(method: MethodEntry, text_only: TextOnlyPolicy, io: StageIO) -> tuple[CandidatePool, int]:
    """The pool with the method's signals and clusters, and how many examples it lacks because they lack a signal.

    A method without signals sees every example. Features are memory-mapped, in the stage's scratch folder.
    """
    table = read_table(io.artifact("pool"), "pool.parquet", POOL, ["uid", "modality", "source"])
    has_image = table["modality"].to_numpy() == "image"
    wanted = table["uid"].combine_chunks().filter(pa.array(has_image))
    absent = _absent(method, wanted, io)
    present = without(wanted, absent)
    is_there = ~pc.is_in(table["uid"], absent["uid"].combine_chunks()).to_numpy()
    pool = CandidatePool(
        uids=table["uid"].to_numpy().astype(str)[is_there],
        has_image=has_image[is_there],
        sources=table["source"].to_numpy().astype(str)[is_there],
        signals={
            need.signal: join_signal(io.artifacts[SIGNALS[need.signal].stage], need, present, io.output.scratch)
            for need in unclustered_needs(method)
        },
        cluster_ids=None,
        text_only=text_only,
    )
    return _with_clusters(pool, method, present, io), absent.num_rows


def _clusters(method: MethodEntry, io: StageIO) -> Artifact | None:
    """The artifact that holds the method's clusters."""
    if method.clustering is None:
        return None
    return io.artifact("cluster" if method.clustering.by == "k-means" else "apply_selector")


def _absent(method: MethodEntry, wanted: pa.Array, io: StageIO) -> pa.Table:
    """Wanted examples that lack a signal of the method or have no cluster."""
    tables = [
        read_absent(io.artifacts[SIGNALS[need.signal].stage], [need.signal], wanted)
        for need in unclustered_needs(method)
    ]
    clustered = _clusters(method, io)
    if clustered:
        tables.append(read_table(clustered, "absent.parquet", ABSENT))
    return first_reasons(tables, wanted)


def _with_clusters(pool: CandidatePool, method: MethodEntry, present: pa.Array, io: StageIO) -> CandidatePool:
    """The pool with its clusters, and with the trajectories that were clustered if the method reads them."""
    clustered = _clusters(method, io)
    if clustered is None:
        return pool
    assignments = read_table(clustered, "assignments.parquet", ASSIGNMENTS)
    rows = pc.index_in(present, assignments["uid"].combine_chunks())
    assert rows.null_count == 0, "clusters and signals disagree"
    places = rows.to_numpy()
    joined = {need.signal for need in unclustered_needs(method)}
    trajectories = {
        need.signal: array_of(read_table(clustered, "trajectories.parquet")["trajectory"])[places]
        for need in method.signals
        if need.signal not in joined
    }
    return replace(
        pool,
        signals={**pool.signals, **trajectories},
        cluster_ids=assignments["cluster"].to_numpy()[places].astype(np.int32),
        centroids=array_of(read_table(clustered, "centroids.parquet")["vector"]),
    )
