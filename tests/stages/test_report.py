"""The report of a line small enough to check by hand: six landed rows, two clusters, three selected."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pytest

from tests.stages.workbench import Workbench, example_row, make_run
from xmas_job.config import PoolConfig, PublishConfig, ReportConfig, SelectConfig
from xmas_job.core.performance import mean_and_standard_error
from xmas_job.errors import BadDataError
from xmas_job.fingerprint import canonical_json
from xmas_job.runner import Run
from xmas_job.sections import ClusterSection
from xmas_job.stages import pool, publish, report, select
from xmas_job.storage.journal import outcome_key
from xmas_job.storage.output import Output
from xmas_job.storage.record import Artifact
from xmas_job.storage.schemas import ABSENT, ASSIGNMENTS, PREDICTIONS, SCORES, centroid_schema, trajectory_schema

EXAMPLES = [
    example_row("a", source="coco"),
    example_row("b", source="coco"),
    example_row("c", source="gqa"),
    example_row("d", source="gqa"),
    example_row("m", source="gqa"),
    example_row("t", "text", source="text"),
]
TRAJECTORIES = {"a": [1.0, 3.0], "b": [1.0, 1.5], "c": [1.0, 2.0], "d": [5.0, 5.25]}
CLUSTERS = {"a": 0, "b": 0, "c": 0, "d": 1}
CLUSTERED = ClusterSection(num_clusters=4, num_iterations=1).identity()
# m has no score. The ranking: b d c a, with t at rank 5 (floor(n / 5)).

Correct = Mapping[str, Sequence[int]]
"""Training key -> right or wrong on each held-out example."""


def line(bench: Workbench, method: str = "xmas", budget: str = "50%") -> dict[str, Any]:
    """The report's inputs: the cheap stages run, the costly ones written by hand."""
    ingested = bench.examples("d@v1", EXAMPLES, num_quarantined=2)
    pooled = bench.run(pool.run, PoolConfig(), ingest=ingested)
    trajectories = [{"uid": uid, "trajectory": values} for uid, values in TRAJECTORIES.items()]
    assignments = [{"uid": uid, "cluster": number, "distance": 0.0} for uid, number in CLUSTERS.items()]

    def fill(output: Output) -> None:
        schema = trajectory_schema(2)
        output.table("trajectories.parquet", pa.Table.from_pylist(trajectories, schema), schema)
        output.table("assignments.parquet", pa.Table.from_pylist(assignments, ASSIGNMENTS), ASSIGNMENTS)
        centroids = [{"cluster": number, "size": 1, "vector": [0.0, 0.0]} for number in range(4)]
        output.table("centroids.parquet", pa.Table.from_pylist(centroids, centroid_schema(2)), centroid_schema(2))
        output.table("absent.parquet", pa.Table.from_pylist([{"uid": "m", "reason": "cut"}], ABSENT), ABSENT)

    positions = [{"checkpoint": t, "global_step": t, "fraction": fraction} for t, fraction in enumerate((0, 0.4, 1.0))]
    proxy = bench.write("train_proxy", lambda output: output.json("positions.json", positions))
    trunk = (
        {"cluster": (bench.write("cluster", fill, section=CLUSTERED),), "proxy": (proxy,)} if method == "xmas" else {}
    )
    cluster: dict[str, Any] = {"cluster": trunk["cluster"]} if trunk else {}
    ranking = bench.run(select.run, SelectConfig(method=method), key="subset", pool=pooled, **cluster)
    selection = bench.run(
        publish.run, PublishConfig(budget=budget), key="subset", pool=pooled, ranking=ranking, ingest=ingested
    )
    empty: dict[str, Any] = {"cluster": (), "proxy": (), "scores": ()}
    return {**empty, **trunk, "ingest": ingested, "pool": pooled, "ranking": ranking, "selection": selection}


def scores(
    bench: Workbench, correct: Correct, sources: Sequence[str] = ("coco", "coco", "all", "all")
) -> list[Artifact]:
    """Evaluate's tables, by hand."""
    return [bench.write("evaluate", _evaluated(values, sources), key=key) for key, values in correct.items()]


def _evaluated(values: Sequence[int], sources: Sequence[str]) -> Any:
    predictions = [
        {"uid": f"e{row}", "source": source, "answer": "x", "prediction": "x", "correct": bool(value)}
        for row, (value, source) in enumerate(zip(values, sources, strict=True))
    ]
    groups = {None: list(values)}
    for source, value in zip(sources, values, strict=True):
        groups.setdefault(source, []).append(value)  # type: ignore[arg-type]
    means = {source: mean_and_standard_error(found) for source, found in groups.items()}
    rows = [
        {
            "benchmark": "held",
            "metric": "exact_match",
            "source": source,
            "value": mean.mean,
            "standard_error": mean.standard_error,
            "num_examples": mean.num_examples,
        }
        for source, mean in means.items()
    ]

    def fill(output: Output) -> None:
        output.table("predictions.parquet", pa.Table.from_pylist(predictions, PREDICTIONS), PREDICTIONS)
        output.table("scores.parquet", pa.Table.from_pylist(rows, SCORES), SCORES)

    return fill


def numbers_of(artifact: Artifact) -> dict[str, Any]:
    numbers: dict[str, Any] = json.loads(artifact.read("numbers.json"))
    return numbers


def test_numbers_by_hand_without_comparison(bench: Workbench) -> None:
    inputs = line(bench)
    made = bench.run(report.run, ReportConfig(), **inputs)
    numbers = numbers_of(made)
    assert made.record.metrics == {
        "selection_id": inputs["selection"].record.metrics["selection_id"],
        "verdict": "not measured",
    }
    assert numbers["sizes"] == {
        "num_landed": 8,
        "num_quarantined": 2,
        "num_duplicates": 0,
        "num_pool": 6,
        "num_selected": 3,  # b d c
        "fraction": 0.5,
        "num_text_only_pool": 1,
        "num_text_only_selected": 0,
        "text_only_share_pool": 1 / 6,
        "text_only_share_selected": 0.0,
        "num_never_selected": 1,  # m
        "num_outside_clusters": 2,  # m and t
    }
    assert [(row["source"], row["num_pool"], row["num_selected"]) for row in numbers["sources"]] == [
        ("gqa", 3, 2),
        ("coco", 2, 1),
        ("text", 1, 0),
    ]
    # Cluster 0 keeps b and c (0.5 and 1) and drops a (2); cluster 1 keeps all it has.
    assert numbers["clusters"] == [
        {"cluster": 0, "num_members": 3, "num_selected": 2, "cut_in_part": True, "instability_cut": 1.0},
        {"cluster": 1, "num_members": 1, "num_selected": 1, "cut_in_part": False, "instability_cut": None},
    ]
    assert numbers["trajectories"] == {
        "signal": "alignment",
        "meaning": "sum of the top singular values of the cross-modal attention block",
        "positions": [0.4, 1.0],  # checkpoint 0 is no part of a trajectory
        "num_clusters": 2,
        "panels": [
            {
                "cluster": 0,
                "num_members": 3,
                "num_selected": 2,
                "low": [1.0, pytest.approx(1.6)],
                "median": [1.0, 2.0],
                "high": [1.0, pytest.approx(2.8)],
            },
            {
                "cluster": 1,
                "num_members": 1,
                "num_selected": 1,
                "low": [5, 5.25],
                "median": [5, 5.25],
                "high": [5, 5.25],
            },
        ],
    }
    assert (numbers["instability"]["median_kept"], numbers["instability"]["median_dropped"]) == (0.5, 2.0)
    assert [(row["code"], row["num_examples"], row["share"]) for row in numbers["quarantine"]] == [
        ("missing_image", 2, 0.25)
    ]
    assert numbers["evaluation"] is None
    assert numbers["run"]["budget_asked"] == "50%"
    assert numbers["stages"] == []


def test_numbers_are_those_of_the_inputs_alone(bench: Workbench) -> None:
    inputs = line(bench)
    first, again = (bench.run(report.run, ReportConfig(), **inputs) for _ in range(2))
    assert first.record.digest == again.record.digest
    assert (numbers_of(first)["run"]["run_id"], numbers_of(first)["run"]["created_at"]) == ("", "")


def test_method_without_clusters_has_none_in_its_report(bench: Workbench) -> None:
    numbers = numbers_of(bench.run(report.run, ReportConfig(), **line(bench, "random")))
    assert numbers["clusters"] == []
    assert numbers["trajectories"] is None
    assert numbers["instability"] is None
    assert numbers["sizes"]["num_selected"] == 3
    assert numbers["sizes"]["num_never_selected"] == 0
    assert numbers["run"]["provenance"]["proxy"] == "none"


def test_one_checkpoint_has_no_instability_and_no_cut(bench: Workbench) -> None:
    inputs = line(bench)
    schema = trajectory_schema(1)
    rows = [{"uid": uid, "trajectory": values[:1]} for uid, values in TRAJECTORIES.items()]
    clustered = inputs["cluster"][0]

    def fill(output: Output) -> None:
        output.table("trajectories.parquet", pa.Table.from_pylist(rows, schema), schema)
        for path in ("assignments.parquet", "centroids.parquet", "absent.parquet"):
            output.data(path, clustered.read(path))

    inputs["cluster"] = bench.write("cluster", fill, section=CLUSTERED)
    inputs["proxy"] = bench.write(
        "train_proxy", lambda output: output.json("positions.json", [{"checkpoint": 1, "fraction": 1.0}])
    )
    inputs["ranking"] = bench.run(
        select.run, SelectConfig(), key="subset", pool=inputs["pool"], cluster=inputs["cluster"]
    )
    inputs["selection"] = bench.run(
        publish.run, PublishConfig(budget="50%"), **{name: inputs[name] for name in ("pool", "ranking", "ingest")}
    )
    numbers = numbers_of(bench.run(report.run, ReportConfig(), **inputs))
    assert numbers["instability"] is None
    assert [row["instability_cut"] for row in numbers["clusters"]] == [None, None]
    assert numbers["trajectories"]["positions"] == [1.0]


def test_comparison_by_hand(bench: Workbench) -> None:
    correct = {"subset/0": [1, 1, 1, 1], "random.0/0": [0, 0, 0, 0], "full/0": [1, 1, 1, 0]}
    made = bench.run(report.run, ReportConfig(), **{**line(bench), "scores": scores(bench, correct)})
    assert made.record.metrics["verdict"] == "better"
    evaluation = numbers_of(made)["evaluation"]
    assert evaluation["arms"] == ["xmas", "random", "full"]
    (benchmark,) = evaluation["benchmarks"]
    assert (benchmark["benchmark"], benchmark["metric"], benchmark["num_examples"]) == ("held", "exact_match", 4)
    assert [(arm["arm"], arm["mean"]) for arm in benchmark["arms"]] == [("xmas", 1.0), ("random", 0.0), ("full", 0.75)]
    # The standard error of 1 1 1 0: s = 1/2 over the root of 4.
    assert benchmark["arms"][2]["standard_error"] == pytest.approx(0.25)
    # A source that happens to be called "all" is a source like any other.
    by_source = {row["source"]: {arm["arm"]: arm["mean"] for arm in row["arms"]} for row in benchmark["sources"]}
    assert by_source == {
        "coco": {"xmas": 1.0, "random": 0.0, "full": 1.0},
        "all": {"xmas": 1.0, "random": 0.0, "full": 0.5},
    }
    (comparison,) = evaluation["comparisons"]
    assert (comparison["arm"], comparison["baseline"], comparison["mean"]) == ("xmas", "random", 1.0)
    assert (comparison["num_seeds"], comparison["num_examples"]) == (1, 4)


def test_seeds_are_paired_with_their_like(bench: Workbench) -> None:
    right, wrong = [1, 1, 1, 1], [0, 0, 0, 0]
    correct = {"subset/0": right, "subset/1": wrong, "random.0/0": right, "random.1/1": wrong}
    made = bench.run(report.run, ReportConfig(), **{**line(bench), "scores": scores(bench, correct)})
    (comparison,) = numbers_of(made)["evaluation"]["comparisons"]
    # Seed 0 against seed 0 and 1 against 1: no difference anywhere. Crossed, they would differ by 1 and -1.
    assert (comparison["mean"], comparison["low"], comparison["high"]) == (0.0, 0.0, 0.0)
    assert comparison["num_seeds"] == 2
    assert made.record.metrics["verdict"] == "no difference"


@pytest.mark.parametrize("method", ["random", "full"])
def test_baseline_as_the_method_asked_for_stays_apart_from_the_arm(bench: Workbench, method: str) -> None:
    correct = {"subset/0": [1, 1, 0, 0], "random.0/0": [0, 0, 0, 1], "full/0": [1, 1, 1, 1]}
    made = bench.run(report.run, ReportConfig(), **{**line(bench, method), "scores": scores(bench, correct)})
    evaluation = numbers_of(made)["evaluation"]
    assert evaluation["arms"] == [f"{method} (asked for)", "random", "full"]
    assert [arm["mean"] for arm in evaluation["benchmarks"][0]["arms"]] == [0.5, 0.25, 1.0]
    assert evaluation["comparisons"][0]["mean"] == 0.25


def test_edited_manifest_is_refused(bench: Workbench) -> None:
    inputs = line(bench)
    manifest = inputs["selection"].read("manifest.json").replace(b'"50%"', b'"51%"')
    inputs["selection"] = bench.write("publish", lambda output: output.data("manifest.json", manifest))
    with pytest.raises(BadDataError, match="was edited"):
        bench.run(report.run, ReportConfig(), **inputs)


def test_release_writes_page_and_numbers_of_this_run(bench: Workbench) -> None:
    made = bench.run(report.run, ReportConfig(), **line(bench))
    run: Run = make_run("night-7", channel="weekly")
    for number, node in enumerate(run.nodes):
        outcome = {"stage": node, "status": "hit" if number else "built", "seconds": 2.5, "digest": "e" * 64}
        bench.store.put(outcome_key(run.run_id, node), canonical_json({**outcome, "address": "elsewhere"}))
    report.release(made, run, "")
    folder = bench.root / "runs/night-7/report"
    numbers = json.loads((folder / "report.json").read_bytes())
    assert {name: numbers["run"][name] for name in ("run_id", "created_at", "channel")} == {
        "run_id": "night-7",
        "created_at": "2026-01-01",
        "channel": "weekly",
    }
    assert [stage["stage"] for stage in numbers["stages"]] == [
        "ingest:d@v1",
        "pool",
        "train_proxy",
        "extract:d@v1",
        "cluster",
        "select:subset",
        "publish:subset",
    ]
    first = {"stage": "ingest:d@v1", "status": "built", "seconds": 2.5, "digest": "e" * 64}
    assert numbers["stages"][0] == {**first, "cost": {}}  # its record is gone
    assert {**numbers, "run": None, "stages": []} == {**numbers_of(made), "run": None}
    page = (folder / "index.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "night-7" in page
    assert str(made.record.metrics["selection_id"]) in page
    before = (page, numbers)
    report.release(made, run, "")
    assert ((folder / "index.html").read_text(), json.loads((folder / "report.json").read_bytes())) == before


@pytest.mark.parametrize(
    ("full", "arp"), [([1, 0, 1, 0], {"xmas": 50.0, "random": 100.0, "full": 100.0}), ([0] * 4, None)]
)
def test_relative_performance_is_there_where_the_whole_pools_target_scores(
    bench: Workbench, full: list[int], arp: dict[str, float] | None
) -> None:
    correct = {"subset/0": [1, 0, 0, 0], "random.0/0": [0, 1, 1, 0], "full/0": full}
    inputs = {**line(bench), "scores": tuple(scores(bench, correct))}
    evaluation = numbers_of(bench.run(report.run, ReportConfig(), **inputs))["evaluation"]
    assert evaluation["average_relative_performance"] == arp
