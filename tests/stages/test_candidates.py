"""What a method is handed, from tables written by hand: examples that lack one of its signals are in none of them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from tests.stages.workbench import Workbench
from xmas_job.catalog.methods import ClusteringNeed, MethodEntry, SignalNeed
from xmas_job.extraction.layout import absent_path, signal_path
from xmas_job.sections import Section
from xmas_job.selection.contract import CandidatePool
from xmas_job.stage_io import Metrics, StageIO
from xmas_job.stages.candidates import candidate_pool
from xmas_job.storage.output import Output
from xmas_job.storage.record import Artifact
from xmas_job.storage.schemas import ABSENT, ASSIGNMENTS, POOL, centroid_schema, feature_schema, trajectory_schema

EL2N = {"a": 0.5, "c": 1.5, "d": 2.5, "t": 9.0}  # not b
ASSIGNED = {"a": 3, "b": 1, "d": 2}  # not c
BOTH = MethodEntry(
    "x:Y", "-", "x", "proxy and one pass", nested=True,
    signals=(SignalNeed("el2n", "last"), SignalNeed("loss", "all")),
    clustering=ClusteringNeed("loss", "all", 4, 1, spherical=False),
)  # fmt: skip


def make_pool(bench: Workbench) -> Artifact:
    rows = [
        {"uid": uid, "source": f"of-{uid}", "modality": "text" if uid == "t" else "image", "dataset": "d@v1"}
        for uid in "abcdt"
    ]
    return bench.write("pool", lambda output: output.table("pool.parquet", pa.Table.from_pylist(rows, POOL), POOL))


def write_absent(output: Output, path: str, reasons: dict[str, str]) -> None:
    rows = [{"uid": uid, "reason": reason} for uid, reason in reasons.items()]
    output.table(path, pa.Table.from_pylist(rows, ABSENT), ABSENT)


def extracted(output: Output) -> None:
    rows = [{"uid": uid, "value": [value]} for uid, value in EL2N.items()]
    output.table(signal_path(2, 0, "el2n"), pa.Table.from_pylist(rows, feature_schema(1)), feature_schema(1))
    write_absent(output, absent_path(0, "el2n"), {"b": "no_answer_after_truncation"})


def clustered(output: Output) -> None:
    trajectories = [{"uid": uid, "trajectory": [float(c), c + 0.5]} for uid, c in ASSIGNED.items()]
    output.table("trajectories.parquet", pa.Table.from_pylist(trajectories, trajectory_schema(2)), trajectory_schema(2))
    rows = [{"uid": uid, "cluster": number, "distance": 0.0} for uid, number in ASSIGNED.items()]
    output.table("assignments.parquet", pa.Table.from_pylist(rows, ASSIGNMENTS), ASSIGNMENTS)
    centroids = [{"cluster": number, "size": 1, "vector": [float(number), 0.0]} for number in range(4)]
    output.table("centroids.parquet", pa.Table.from_pylist(centroids, centroid_schema(2)), centroid_schema(2))
    write_absent(output, "absent.parquet", {"c": "no_answer_after_truncation"})


def handed(bench: Workbench, method: MethodEntry, **inputs: Any) -> tuple[CandidatePool, int]:
    found: list[tuple[CandidatePool, int]] = []

    def look(_: Section, io: StageIO) -> Metrics:
        found.append(candidate_pool(method, "proportional", io))
        return {}

    bench.run(look, Section(), **inputs)
    return found[0]


def test_examples_that_lack_one_of_two_signals_are_left_out_of_both(bench: Workbench) -> None:
    pool, num_absent = handed(
        bench,
        BOTH,
        pool=make_pool(bench),
        extract=bench.write("extract", extracted),
        cluster=bench.write("cluster", clustered),
    )
    assert num_absent == 2
    assert pool.uids.tolist() == ["a", "d", "t"]
    assert pool.has_image.tolist() == [True, True, False]
    assert pool.sources is not None
    assert pool.sources.tolist() == ["of-a", "of-d", "of-t"]
    assert pool.signal("el2n").tolist() == [0.5, 2.5]
    assert pool.signal("loss").tolist() == [[3.0, 3.5], [2.0, 2.5]]
    cluster_ids, centroids = pool.clustering()
    assert cluster_ids.tolist() == [3, 2]
    assert centroids[:, 0].tolist() == [0, 1, 2, 3]


def test_method_without_signals_sees_every_example(bench: Workbench) -> None:
    pool, num_absent = handed(bench, MethodEntry("x:Y", "-", "x", "nothing", nested=True), pool=make_pool(bench))
    assert (pool.uids.tolist(), num_absent) == (list("abcdt"), 0)
