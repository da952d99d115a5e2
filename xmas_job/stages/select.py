"""select: the pool in selection order, by one method."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from xmas_job.catalog.methods import METHODS
from xmas_job.config import SelectConfig
from xmas_job.entrypoints import load_entrypoint
from xmas_job.errors import UsageError
from xmas_job.selection.contract import CandidatePool, Ranking, SelectionMethod
from xmas_job.stage_io import Metrics, StageIO
from xmas_job.storage.schemas import ABSENT, ASSIGNMENTS, POOL, RANKING
from xmas_job.storage.tables import array_of, read_table

METHOD = "method.json"
STRATA = np.array(["text", "image"])


def run(section: SelectConfig, io: StageIO) -> Metrics:
    """Write `ranking.parquet` (ranks count from 1, over all and in the cluster) and `method.json`."""
    pool, num_absent = _candidate_pool(section, io)
    method = build_method(section)
    ranking = method.rank(pool, np.random.default_rng(section.seed))
    io.output.table("ranking.parquet", _table(pool, ranking).sort_by("uid"), RANKING)
    num_text_only = int((~pool.has_image).sum())
    num_eligible = pool.uids.size + num_absent - (num_text_only if section.text_only == "exclude" else 0)
    # What a manifest states of the method is part of the content, so that it can never be another ranking's.
    io.output.json(METHOD, {**section.model_dump(mode="json"), "num_eligible": num_eligible})
    return {"num_eligible": num_eligible, "num_ranked": ranking.order.size, "num_absent": num_absent}


def build_method(section: SelectConfig) -> SelectionMethod:
    """The method with its hyper-parameters.

    Raises:
        UsageError: for a parameter that the method has not, or a value that it does not take.
    """
    entry = METHODS[section.method]
    kind: Any = load_entrypoint(entry.entrypoint)
    known = {field.name for field in dataclasses.fields(kind)}
    if unknown := set(section.params) - known:
        raise UsageError(
            f"select.params: {section.method} has no parameter {sorted(unknown)[0]!r}.",
            f"It has: {', '.join(sorted(known)) or 'none'}.",
        )
    try:
        method: SelectionMethod = TypeAdapter(kind).validate_python(dict(section.params))
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"select.params.{first['loc'][0]}: {first['msg']}.", "Correct it and run again.") from None
    return method


def _candidate_pool(section: SelectConfig, io: StageIO) -> tuple[CandidatePool, int]:
    """The pool as arrays without the examples that have no signal, and the number of those."""
    pool = read_table(io.artifact("pool"), "pool.parquet", POOL, ["uid", "modality"])
    uids = pool["uid"].to_numpy().astype(str)
    has_image = pool["modality"].to_numpy() == "image"
    signal = METHODS[section.method].clustered_signal
    if signal is None:
        return CandidatePool(uids, has_image, {}, None, section.text_only), 0
    clustered = io.artifact("cluster")
    absent = read_table(clustered, "absent.parquet", ABSENT)["uid"].to_numpy().astype(str)
    is_there = ~np.isin(uids, absent)
    uids, has_image = uids[is_there], has_image[is_there]
    values = read_table(clustered, "trajectories.parquet")
    trajectories = array_of(values["trajectory"])
    assignments = read_table(clustered, "assignments.parquet", ASSIGNMENTS)
    assert np.array_equal(uids[has_image], assignments["uid"].to_numpy().astype(str)), "cluster and pool disagree"
    clusters = assignments["cluster"].to_numpy().astype(np.int32)
    return CandidatePool(uids, has_image, {signal: trajectories}, clusters, section.text_only), absent.size


def _table(pool: CandidatePool, ranking: Ranking) -> pa.Table:
    ranks = np.arange(1, ranking.order.size + 1, dtype=np.int64)
    return pa.table(
        {
            "uid": pool.uids[ranking.order],
            "rank": ranks,
            "stratum": STRATA[pool.has_image[ranking.order].astype(int)],
            "cluster": ranking.clusters,
            "instability": pa.array(ranking.instability, from_pandas=True),
            "rank_in_cluster": _running_count(ranking.clusters),
        }
    )


def _running_count(groups: NDArray[np.int32]) -> NDArray[np.int64]:
    """How many of the same group stand up to here, itself included."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]][: ordered.size])
    counts = np.arange(1, groups.size + 1) - np.repeat(starts, np.diff(np.r_[starts, groups.size]))
    result = np.empty(groups.size, dtype=np.int64)
    result[order] = counts
    return result
