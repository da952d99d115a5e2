"""publish: the ranking cut at the budget, checked, with a manifest and trainer-ready exports.

`run` makes the selection's files; `release` copies them to selections/<id> and moves the channel.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from xmas_job import __version__
from xmas_job.config import PublishConfig
from xmas_job.core.budget import resolve_budget
from xmas_job.data.exports.llava import write_llava
from xmas_job.data.stored import iterate_examples, read_rows
from xmas_job.errors import BadDataError, QualityGateError, UsageError
from xmas_job.fingerprint import Json, canonical_json, digest_of
from xmas_job.pipeline import SUBSET
from xmas_job.runner import Run
from xmas_job.stage_io import Metrics, StageIO
from xmas_job.stages.costs import costs_of
from xmas_job.stages.select import METHOD
from xmas_job.storage import channels
from xmas_job.storage.journal import utc_now
from xmas_job.storage.manifest import (
    MANIFEST,
    Check,
    Manifest,
    ManifestFile,
    Method,
    Proxy,
    Request,
    Resolved,
    Snapshot,
    Stratum,
    parse_manifest,
    verify_files,
)
from xmas_job.storage.record import Artifact
from xmas_job.storage.schemas import POOL, RANKING
from xmas_job.storage.schemas import SUBSET as SUBSET_SCHEMA
from xmas_job.storage.store import Store
from xmas_job.storage.tables import read_table

EXPORT = "exports/llava.json"
PUBLISHED = ("subset.parquet", "ranking.parquet", EXPORT)


def run(section: PublishConfig, io: StageIO) -> Metrics:
    """Write subset, ranking, export and manifest.

    Raises:
        UsageError: if the budget is above what can be selected.
        QualityGateError: if a check fails; nothing is published then.
    """
    ranked = io.artifact("ranking")
    ranking = read_table(ranked, "ranking.parquet", RANKING)
    told = json.loads(ranked.read(METHOD))
    num_eligible: int = told["num_eligible"]
    size = resolve_budget(section.budget, num_eligible)
    if size > ranking.num_rows:
        raise UsageError(
            f"budget {section.budget} is {size:,} examples, but only {ranking.num_rows:,} could be ranked.",
            f"Ask for at most {ranking.num_rows}.",
        )
    ranking = ranking.append_column("weight", pa.array(_weights(ranking, size, dict(told.get("cluster_sizes", ())))))
    chosen = ranking.filter(pc.less_equal(ranking["rank"], size)).sort_by("uid")
    checks = _checks(io.artifact("pool"), chosen, size)
    _require_passed(checks)
    columns = ["source", "orig_id", "source_uri", "conversation", "image_uris"]
    rows = read_rows(io.artifacts["ingest"], columns, chosen["uid"].combine_chunks())
    subset = _subset_table(chosen, rows)
    io.output.table("subset.parquet", subset, SUBSET_SCHEMA)
    io.output.table("ranking.parquet", ranking.drop_columns("weight"), RANKING)
    io.output.file(EXPORT, lambda path: _export(path, rows), rows=rows.num_rows)
    manifest = _manifest(section, io, subset, checks, size / num_eligible)
    io.output.data(MANIFEST, manifest.to_bytes())
    return {"num_examples": size, "num_eligible": num_eligible, "selection_id": manifest.selection_id}


def release(artifact: Artifact, run: Run, arm: str) -> None:
    """Copy the selection to selections/<id>, its manifest last, and point the run's channel at it.

    Only the arm that was asked for is released; baselines stay in the artifacts. Safe to repeat.
    """
    if arm != SUBSET:
        return
    store = artifact.store
    selection_id = str(artifact.record.metrics["selection_id"])
    folder = f"selections/{selection_id}"
    manifest = artifact.read(MANIFEST)
    if not _is_published(store, folder, manifest):
        for path in PUBLISHED:
            artifact.read(path)  # what is damaged is not published
            store.copy(artifact.key(path), f"{folder}/{path}")
        store.create(f"{folder}/provenance.json", canonical_json(_provenance(artifact, run)))
        store.put(f"{folder}/{MANIFEST}", manifest)
    channels.move(store, run.config.channel, selection=selection_id, run=run.run_id, when=utc_now())


def _is_published(store: Store, folder: str, manifest: bytes) -> bool:
    """Whether the selection is there, every file as its manifest says."""
    try:
        if store.read(f"{folder}/{MANIFEST}") != manifest:
            return False
        verify_files(parse_manifest(manifest, where=folder), lambda path: store.read(f"{folder}/{path}"), where=folder)
    except (FileNotFoundError, BadDataError):
        return False
    return True


def _count(artifact: Artifact, metric: str) -> int:
    value = artifact.record.metrics[metric]
    assert isinstance(value, int)
    return value


def _weights(ranking: pa.Table, size: int, cluster_sizes: Mapping[int, int]) -> NDArray[np.float64]:
    """Cluster size over members selected from it, scaled to mean 1 over the subset (XMAS, Corollary A.1).

    Choice: ranked examples without a cluster count as one group. Sizes are those in the ranking, unless they are given:
    the ranking of a method that is not nested holds only what it chose.
    """
    clusters = ranking["cluster"].to_numpy()
    is_chosen = ranking["rank"].to_numpy() <= size
    numbers, groups = np.unique(clusters, return_inverse=True)
    sizes = np.bincount(groups)
    if cluster_sizes:
        sizes = np.array([cluster_sizes[int(number)] for number in numbers])
    selected = np.bincount(groups[is_chosen], minlength=sizes.size)
    weights = (sizes / np.maximum(selected, 1))[groups]
    return np.asarray(weights / weights[is_chosen].mean())


def _subset_table(chosen: pa.Table, rows: pa.Table) -> pa.Table:
    """Chosen examples with where they came from; both tables are sorted by uid."""
    assert chosen["uid"].equals(rows["uid"]), "ranking and examples disagree"
    columns = {name: (chosen if name in chosen.column_names else rows)[name] for name in SUBSET_SCHEMA.names}
    return pa.table(columns)


def _export(path: Path, rows: pa.Table) -> None:
    with path.open("wb") as stream:
        examples = zip(rows["orig_id"].to_pylist(), iterate_examples(rows), strict=True)
        write_llava(stream, examples, image_root="landing")


def _manifest(
    section: PublishConfig, io: StageIO, subset: pa.Table, checks: tuple[Check, ...], fraction: float
) -> Manifest:
    pool = io.artifact("pool")
    select = json.loads(io.artifact("ranking").read(METHOD))
    ingested = io.artifacts["ingest"]
    strata = _strata(pool, subset)
    proxy = io.artifacts.get("proxy", ())
    return Manifest(
        snapshot=Snapshot(
            id=digest_of([artifact.record.digest for artifact in ingested])[:32],
            datasets=tuple(artifact.node_id.partition(":")[2] for artifact in ingested),
            num_examples=_count(pool, "num_examples"),
            num_quarantined=sum(_count(artifact, "num_quarantined") for artifact in ingested),
            num_duplicates=_count(pool, "num_duplicates"),
            num_excluded=_count(pool, "num_excluded"),
        ),
        request=Request(budget=section.budget),
        resolved=Resolved(num_examples=subset.num_rows, fraction=fraction),
        method=Method.model_validate(
            {"name": select["method"], **{name: select[name] for name in ("params", "seed", "text_only")}}
        ),
        proxy=Proxy(digest=proxy[0].record.digest) if proxy else None,
        strata=strata,
        files=tuple(
            ManifestFile(path=path, sha256=file.sha256, bytes=file.bytes, rows=file.rows)
            for path in sorted(PUBLISHED)
            for file in [io.output.files[path]]
        ),
        checks=checks,
    ).sealed()


def _strata(pool: Artifact, subset: pa.Table) -> tuple[Stratum, ...]:
    table = read_table(pool, "pool.parquet", POOL, ["uid", "modality"])
    chosen = table.filter(pc.is_in(table["uid"], subset["uid"].combine_chunks()))
    names = ("image", "text")
    return tuple(
        Stratum(name=name, num_pool=_num_equal(table, name), num_selected=_num_equal(chosen, name)) for name in names
    )


def _num_equal(table: pa.Table, modality: str) -> int:
    return int(pc.sum(pc.equal(table["modality"], modality)).as_py() or 0)


def _checks(pool: Artifact, chosen: pa.Table, size: int) -> tuple[Check, ...]:
    """Invariants of any selection of `size` examples."""
    pool_uids = read_table(pool, "pool.parquet", POOL, ["uid"])["uid"].combine_chunks()
    num_foreign = chosen.num_rows - int(pc.sum(pc.is_in(chosen["uid"], pool_uids)).as_py() or 0)
    weights = chosen["weight"].to_numpy()
    found = {
        "examples_off_the_budget": (float(abs(chosen.num_rows - size)), 0.0),
        "repeated_examples": (float(chosen.num_rows - pc.count_distinct(chosen["uid"]).as_py()), 0.0),
        "examples_outside_the_pool": (float(num_foreign), 0.0),
        "weight_mean_error": (float(abs(weights.mean() - 1.0)), 1e-9),
    }
    return tuple(
        Check(name=name, status="passed" if value <= limit else "failed", value=value, limit=limit)
        for name, (value, limit) in found.items()
    )


def _require_passed(checks: Sequence[Check]) -> None:
    failed = [check for check in checks if check.status == "failed"]
    if failed:
        listed = "; ".join(f"{check.name} is {check.value:g}, limit {check.limit:g}" for check in failed)
        raise QualityGateError(f"the selection does not pass its checks: {listed}.", "Nothing was published.")


def _provenance(artifact: Artifact, run: Run) -> dict[str, Json]:
    return {
        "created_at": utc_now(),
        "run": run.run_id,
        "xmas_job": __version__,
        "built": dict(artifact.record.provenance),
        "cost": dict(costs_of(artifact.store, run)),
        "artifact": artifact.address,
        "config": run.config.model_dump(mode="json"),
        "sources": {name: {"uri": source.uri, "digest": source.digest} for name, source in run.sources.items()},
    }
