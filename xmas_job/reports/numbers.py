"""The numbers of a report: facts and arrays in, one JSON-able dict out, the same that the page shows.

Owns counting, shares, quantiles and histograms. Refuses to own files, charts and sentences about the verdict.
Legend: N examples in the pool, M scored examples, T checkpoints, K clusters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmas_job.errors import BadDataError
from xmas_job.reports.facts import (
    NO_CLUSTER,
    NO_RANK,
    Comparison,
    Evaluation,
    Pool,
    RunFacts,
    Score,
    StageFacts,
    Trajectories,
)
from xmas_job.reports.verdict import headline

SCHEMA_VERSION = 1
MAX_PANELS = 12
NUM_BINS = 40
BAND = (10.0, 50.0, 90.0)
OTHER_BUDGETS = (0.01, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)

Json = dict[str, Any]


def build_numbers(
    run: RunFacts,
    pool: Pool,
    stages: Sequence[StageFacts],
    trajectories: Trajectories | None = None,
    evaluation: Evaluation | None = None,
) -> Json:
    """Everything a report states, ready for `json.dumps(..., allow_nan=False)`.

    Raises:
        BadDataError: the selection is not a prefix of the ranking it is said to come from, or a score is not finite.
    """
    clusters, sources = _clusters(pool), _sources(pool)
    return {
        "schema_version": SCHEMA_VERSION,
        "run": _run(run),
        "headline": headline(run.method, evaluation),
        "sizes": _sizes(run, pool),
        "sources": sources,
        "clusters": clusters,
        "cut": _cut_health(clusters),
        "other_budgets": _other_budgets(pool),
        "trajectories": None if trajectories is None else _trajectories(trajectories),
        "instability": _instability(pool),
        "evaluation": None if evaluation is None else _evaluation(evaluation, [row["source"] for row in sources]),
        "quarantine": _quarantine(run),
        "stages": [dataclasses.asdict(stage) for stage in stages],
    }


def _run(run: RunFacts) -> Json:
    facts = dataclasses.asdict(run)
    for counted_elsewhere in ("quarantine", "num_landed", "num_duplicates"):
        del facts[counted_elsewhere]
    facts["commands"] = [{"purpose": purpose, "command": command} for purpose, command in run.commands]
    return facts


def _sizes(run: RunFacts, pool: Pool) -> Json:
    num_pool, num_selected = len(pool.selected), int(pool.selected.sum())
    num_text_pool, num_text_selected = int(pool.text_only.sum()), int((pool.text_only & pool.selected).sum())
    return {
        "num_landed": run.num_landed,
        "num_quarantined": sum(reason.num_examples for reason in run.quarantine),
        "num_duplicates": run.num_duplicates,
        "num_pool": num_pool,
        "num_selected": num_selected,
        "fraction": num_selected / num_pool,
        "num_text_only_pool": num_text_pool,
        "num_text_only_selected": num_text_selected,
        "text_only_share_pool": num_text_pool / num_pool,
        "text_only_share_selected": num_text_selected / num_selected,
        "num_never_selected": 0 if pool.rank is None else int((pool.rank == NO_RANK).sum()),
        "num_outside_clusters": 0 if pool.cluster is None else int((pool.cluster == NO_CLUSTER).sum()),
    }


def _sources(pool: Pool) -> list[Json]:
    """One entry a source that has examples, the most frequent first, equal counts by name."""
    num_names = len(pool.source_names)
    in_pool = np.bincount(pool.source, minlength=num_names)
    selected = np.bincount(pool.source[pool.selected], minlength=num_names)
    rows = [
        source_row(name, int(n), int(k), in_pool.sum(), selected.sum())
        for name, n, k in zip(pool.source_names, in_pool, selected, strict=True)
        if n
    ]
    return sorted(rows, key=lambda row: (-row["num_pool"], row["source"]))


def source_row(name: str, num_pool: int, num_selected: int, pool_size: int, subset_size: int) -> Json:
    """Counts of one source (or a group of them) with its share of pool and subset and the part kept."""
    return {
        "source": name,
        "num_pool": num_pool,
        "num_selected": num_selected,
        "share_pool": float(num_pool / pool_size),
        "share_selected": float(num_selected / subset_size),
        "kept": num_selected / num_pool,
    }


def _clusters(pool: Pool) -> list[Json]:
    """One entry a cluster, the largest first, equal sizes by id; empty when the method does not cluster.

    `instability_cut` is the largest kept instability of a cluster cut in part, when no dropped member lies below
    it; None elsewhere, so a cut is stated only where it explains the choice.
    """
    if pool.cluster is None:
        return []
    member = pool.cluster != NO_CLUSTER
    ids, index = np.unique(pool.cluster[member], return_inverse=True)
    num_members = np.bincount(index, minlength=len(ids))
    num_selected = np.bincount(index, weights=pool.selected[member], minlength=len(ids)).astype(int)
    cuts = _cuts(pool, member, index, len(ids))
    rows = [
        {"cluster": int(ids[k]), "num_members": int(num_members[k]), "num_selected": int(num_selected[k]), **cuts[k]}
        for k in range(len(ids))
    ]
    return sorted(rows, key=lambda row: (-row["num_members"], row["cluster"]))


def _cuts(pool: Pool, member: NDArray[np.bool_], index: NDArray[np.integer], num_clusters: int) -> list[Json]:
    if pool.instability is None or pool.scored is None:
        return [{"cut_in_part": None, "instability_cut": None}] * num_clusters
    scored, kept, value = pool.scored[member], pool.selected[member], pool.instability[member]
    most_kept, least_dropped = np.full(num_clusters, -np.inf), np.full(num_clusters, np.inf)
    np.maximum.at(most_kept, index[scored & kept], value[scored & kept])
    np.minimum.at(least_dropped, index[scored & ~kept], value[scored & ~kept])
    in_part = np.isfinite(most_kept) & np.isfinite(least_dropped)
    ordered = in_part & (most_kept <= least_dropped)
    return [
        {"cut_in_part": bool(part), "instability_cut": float(most) if clean else None}
        for part, clean, most in zip(in_part, ordered, most_kept, strict=True)
    ]


def _cut_health(clusters: list[Json]) -> Json:
    in_part = [row for row in clusters if row["cut_in_part"]]
    return {
        "num_clusters": len(clusters),
        "num_clusters_touched": sum(row["num_selected"] > 0 for row in clusters),
        "num_cut_in_part": len(in_part),
        "num_cut_by_instability": sum(row["instability_cut"] is not None for row in in_part),
    }


def _other_budgets(pool: Pool) -> list[Json]:
    """What the same ranking gives at other budgets; empty when the selection is not a prefix of a ranking."""
    if pool.rank is None:
        return []
    ranked = np.flatnonzero(pool.rank != NO_RANK)
    order = ranked[np.argsort(pool.rank[ranked], kind="stable")]
    num_pool, num_selected = len(pool.rank), int(pool.selected.sum())
    if not pool.selected[order[:num_selected]].all():
        raise BadDataError(
            f"The selection of {num_selected} examples is not the first {num_selected} of its ranking.",
            "Run `xmas-job stage publish` again; if it stays, the ranking belongs to another run.",
        )
    sizes = {num_selected, *(max(1, int(fraction * num_pool)) for fraction in OTHER_BUDGETS)}
    return [
        _prefix(pool, order[:size], is_this_run=size == num_selected) for size in sorted(sizes) if size <= len(order)
    ]


def _prefix(pool: Pool, prefix: NDArray[np.integer], *, is_this_run: bool) -> Json:
    touched = None
    if pool.cluster is not None:
        touched = len(np.setdiff1d(pool.cluster[prefix], [NO_CLUSTER]))
    return {
        "num_examples": len(prefix),
        "fraction": len(prefix) / len(pool.selected),
        "num_clusters_touched": touched,
        "num_sources": len(np.unique(pool.source[prefix])),
        "text_only_share": float(pool.text_only[prefix].mean()),
        "is_this_run": is_this_run,
    }


def _trajectories(trajectories: Trajectories) -> Json:
    """Bands (10th percentile, median, 90th) of the largest clusters, at most `MAX_PANELS`."""
    ids, num_members = np.unique(trajectories.cluster, return_counts=True)
    largest = sorted(zip(ids, num_members, strict=True), key=lambda pair: (-pair[1], pair[0]))[:MAX_PANELS]
    return {
        "signal": trajectories.signal,
        "meaning": trajectories.meaning,
        "positions": list(trajectories.positions),
        "num_clusters": len(ids),
        "panels": [_panel(trajectories, int(cluster)) for cluster, _ in largest],
    }


def _panel(trajectories: Trajectories, cluster: int) -> Json:
    member = trajectories.cluster == cluster
    low, median, high = np.percentile(trajectories.values[member].astype(np.float64), BAND, axis=0)
    return {
        "cluster": cluster,
        "num_members": int(member.sum()),
        "num_selected": int((member & trajectories.selected).sum()),
        "low": low.tolist(),
        "median": median.tolist(),
        "high": high.tolist(),
    }


def _instability(pool: Pool) -> Json | None:
    """Histograms of kept and dropped over the same bins; the largest 0.5 % are counted in the last bin."""
    if pool.instability is None or pool.scored is None or not pool.scored.any():
        return None
    value = pool.instability[pool.scored].astype(np.float64)
    kept = pool.selected[pool.scored]
    end = float(np.percentile(value, 99.5))
    edges = np.histogram_bin_edges(value[value <= end], bins=NUM_BINS)
    clipped = np.minimum(value, edges[-1])
    return {
        "edges": edges.tolist(),
        "num_kept": np.histogram(clipped[kept], edges)[0].tolist(),
        "num_dropped": np.histogram(clipped[~kept], edges)[0].tolist(),
        "median_kept": _median(value[kept]),
        "median_dropped": _median(value[~kept]),
        "num_beyond": int((value > edges[-1]).sum()),
    }


def _median(values: NDArray[np.float64]) -> float | None:
    return float(np.median(values)) if len(values) else None


def _evaluation(evaluation: Evaluation, source_order: Sequence[str]) -> Json:
    for score in evaluation.scores:
        if not np.isfinite(score.mean):
            raise BadDataError(
                f"The score of {score.arm} (seed {score.seed}) on {score.benchmark} is {score.mean}.",
                "Look at the predictions of that arm and run `xmas-job stage evaluate` again.",
            )
    benchmarks = _in_order(score.benchmark for score in evaluation.scores)
    return {
        "arms": _in_order(score.arm for score in evaluation.scores),
        "benchmarks": [_benchmark(evaluation.scores, name, source_order) for name in benchmarks],
        "comparisons": [_comparison(comparison) for comparison in evaluation.comparisons],
    }


def _comparison(comparison: Comparison) -> Json:
    facts = dataclasses.asdict(comparison)
    return {**facts, **facts.pop("difference")}


def _benchmark(scores: Sequence[Score], name: str, source_order: Sequence[str]) -> Json:
    """Arms on the whole benchmark and by source; the sources in the order of the pool, then the unknown by name."""
    here = [score for score in scores if score.benchmark == name]
    whole = [score for score in here if score.source is None]
    place = {source: index for index, source in enumerate(source_order)}
    names = {score.source for score in here if score.source is not None}
    sources = sorted(names, key=lambda source: (place.get(source, len(place)), source))
    return {
        "benchmark": name,
        "metric": here[0].metric,
        "num_examples": max((score.num_examples for score in whole), default=0),
        "arms": _arms(whole),
        "sources": [_scored_source(source, [score for score in here if score.source == source]) for source in sources],
    }


def _scored_source(source: str, scores: Sequence[Score]) -> Json:
    return {"source": source, "num_examples": max(score.num_examples for score in scores), "arms": _arms(scores)}


def _arms(scores: Sequence[Score]) -> list[Json]:
    """One entry an arm: the mean over its seeds and every seed.

    Choice: the standard error of the mean over seeds is the mean of the seeds' standard errors. All seeds answer
    the same held-out examples, so their errors move together; this is the most it can be, dividing would flatter.
    """
    return [
        {
            "arm": arm,
            "mean": float(np.mean([score.mean for score in scores if score.arm == arm])),
            "standard_error": _common_error([score.standard_error for score in scores if score.arm == arm]),
            "seeds": [
                {"seed": score.seed, "mean": score.mean, "standard_error": score.standard_error}
                for score in scores
                if score.arm == arm
            ],
        }
        for arm in _in_order(score.arm for score in scores)
    ]


def _common_error(errors: Sequence[float | None]) -> float | None:
    known = [error for error in errors if error is not None]
    return float(np.mean(known)) if len(known) == len(errors) else None


def _in_order(names: Iterable[str]) -> list[str]:
    """Distinct names in the order of their first appearance."""
    return list(dict.fromkeys(names))


def _quarantine(run: RunFacts) -> list[Json]:
    reasons = sorted(run.quarantine, key=lambda reason: (-reason.num_examples, reason.code))
    return [{**dataclasses.asdict(reason), "share": reason.num_examples / run.num_landed} for reason in reasons]
