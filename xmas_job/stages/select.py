"""select: the pool in selection order, by one method."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from xmas_job.catalog.methods import find_method
from xmas_job.config import SelectConfig
from xmas_job.core.budget import resolve_budget
from xmas_job.entrypoints import load_entrypoint
from xmas_job.errors import UsageError
from xmas_job.selection.contract import BudgetedMethod, CandidatePool, Ranking, SelectionMethod, require_contract
from xmas_job.stage_io import Metrics, StageIO
from xmas_job.stages.candidates import candidate_pool
from xmas_job.storage.schemas import RANKING

METHOD = "method.json"
STRATA = np.array(["text", "image"])


def run(section: SelectConfig, io: StageIO) -> Metrics:
    """Write `ranking.parquet` (ranks count from 1, over all and in the cluster) and `method.json`.

    A method whose choice depends on the budget ranks what it chose, in its order, and nothing else.
    """
    pool, num_absent = candidate_pool(find_method(section.method), section.text_only, io)
    num_text_only = int((~pool.has_image).sum())
    num_eligible = pool.uids.size + num_absent - (num_text_only if section.text_only == "exclude" else 0)
    ranking = _ranking(section, pool, num_eligible)
    io.output.table("ranking.parquet", _table(pool, ranking).sort_by("uid"), RANKING)
    # What a manifest states of the method is part of the content, so that it can never be another ranking's.
    told = {**section.model_dump(mode="json"), "num_eligible": num_eligible}
    if not find_method(section.method).nested:
        told["cluster_sizes"] = _cluster_sizes(pool)  # of a nested method the ranking tells them
    io.output.json(METHOD, told)
    return {"num_eligible": num_eligible, "num_ranked": ranking.order.size, "num_absent": num_absent}


def _ranking(section: SelectConfig, pool: CandidatePool, num_eligible: int) -> Ranking:
    """The whole ranking of a nested method, or the choice of another as a ranking of its own."""
    method, rng = build_method(section), np.random.default_rng(section.seed)
    if find_method(section.method).nested:
        nested: SelectionMethod = method
        ranking = nested.rank(pool, rng)
        require_contract(section.method, ranking, pool)
        return ranking
    assert section.budget is not None, "the plan fills in the budget"
    budget = resolve_budget(section.budget, num_eligible)
    num_there = int(pool.has_image.sum()) if section.text_only == "exclude" else pool.uids.size
    if budget > num_there:
        raise UsageError(
            f"budget {section.budget} is {budget:,} examples, but only {num_there:,} could be ranked.",
            f"Ask for at most {num_there}.",
        )
    budgeted: BudgetedMethod = method
    selection = budgeted.select(pool, budget, rng)
    require_contract(section.method, selection, pool, budget)
    return Ranking(selection.rows, selection.clusters, np.full(selection.rows.size, np.nan))


def _cluster_sizes(pool: CandidatePool) -> list[list[int]]:
    """[cluster, members] of the pool, -1 standing for all rows without one."""
    clusters = np.full(pool.uids.size, -1, dtype=np.int64)
    if pool.cluster_ids is not None:
        clusters[pool.has_image] = pool.cluster_ids
    numbers, sizes = np.unique(clusters, return_counts=True)
    return [[int(number), int(size)] for number, size in zip(numbers, sizes, strict=True)]


def build_method(section: SelectConfig) -> Any:
    """The method with its hyper-parameters.

    Raises:
        UsageError: for a parameter that the method has not, or a value that it does not take.
    """
    kind: Any = load_entrypoint(find_method(section.method).entrypoint)
    known = {field.name for field in dataclasses.fields(kind)}
    if unknown := set(section.params) - known:
        raise UsageError(
            f"select.params: {section.method} has no parameter {sorted(unknown)[0]!r}.",
            f"It has: {', '.join(sorted(known)) or 'none'}.",
        )
    try:
        return TypeAdapter(kind).validate_python(dict(section.params))
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"select.params.{first['loc'][0]}: {first['msg']}.", "Correct it and run again.") from None


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
