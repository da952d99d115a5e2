"""Trajectories of two landed versions, each extracted in parts, joined and clustered."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pytest

from tests.stages.workbench import Workbench, rows_of
from xmas_job.errors import BadDataError, UsageError
from xmas_job.extraction.layout import absent_path, signal_path
from xmas_job.sections import ClusterSection
from xmas_job.stages import cluster
from xmas_job.storage.output import Output
from xmas_job.storage.record import Artifact
from xmas_job.storage.schemas import ABSENT, POOL, signal_schema

Part = Mapping[int, Mapping[str, tuple[float, float]]]
"""Checkpoint -> uid -> the two singular values."""
TWO = ClusterSection(num_clusters=2, num_iterations=100)


def make_pool(bench: Workbench, images: str, texts: str = "") -> Artifact:
    rows = [{"uid": uid, "source": "s", "modality": "image", "dataset": "d"} for uid in images]
    rows += [{"uid": uid, "source": "s", "modality": "text", "dataset": "d"} for uid in texts]
    table = pa.Table.from_pylist(sorted(rows, key=lambda row: row["uid"]), POOL)
    return bench.write("pool", lambda output: output.table("pool.parquet", table, POOL))


def extracted(bench: Workbench, *parts: tuple[Part, Mapping[str, str]]) -> Artifact:
    """One version's artifact; every part is (values by checkpoint, absent uid -> reason)."""

    def fill(output: Output) -> None:
        for partition, (values, absent) in enumerate(parts):
            for checkpoint, by_uid in values.items():
                uids = sorted(by_uid)
                flat = pa.array([value for uid in uids for value in by_uid[uid]], pa.float32())
                columns = {"uid": pa.array(uids, pa.string()), "value": pa.FixedSizeListArray.from_arrays(flat, 2)}
                counts = pa.array([1] * len(uids), pa.int32())
                table = pa.table({**columns, "num_text_tokens": counts, "num_image_tokens": counts})
                output.table(signal_path(checkpoint, partition), table, signal_schema(2))
            missing = [{"uid": uid, "reason": reason} for uid, reason in sorted(absent.items())]
            output.table(absent_path(partition), pa.Table.from_pylist(missing, ABSENT), ABSENT)

    return bench.write("extract", fill)


def test_parts_and_versions_are_joined_into_trajectories(bench: Workbench) -> None:
    # Partitions are not in uid order; "t" is text-only, "x" is no longer in the pool, "b" landed twice.
    first = extracted(
        bench,
        ({1: {"d": (3, 1), "b": (1, 0)}, 2: {"d": (5, 1), "b": (1, 1)}}, {"t": "text_only"}),
        ({1: {"a": (1, 0.5), "x": (9, 9)}, 2: {"a": (1, 0.25), "x": (9, 9)}}, {"m": "no_image_after_truncation"}),
    )
    second = extracted(
        bench, ({1: {"b": (7, 7), "c": (4, 1)}, 2: {"b": (7, 7), "c": (6, 0)}}, {"y": "no_image_after_truncation"})
    )
    made = bench.run(cluster.run, TWO, pool=make_pool(bench, "abcdm", "t"), extract=[first, second])
    assert rows_of(made, "trajectories.parquet") == [
        {"uid": "a", "trajectory": [1.5, 1.25]},
        {"uid": "b", "trajectory": [1.0, 2.0]},  # of the first version
        {"uid": "c", "trajectory": [5.0, 6.0]},
        {"uid": "d", "trajectory": [4.0, 6.0]},
    ]
    assert rows_of(made, "absent.parquet") == [{"uid": "m", "reason": "no_image_after_truncation"}]
    assigned = rows_of(made, "assignments.parquet")
    low, high = assigned[0]["cluster"], assigned[2]["cluster"]
    assert [(row["uid"], row["cluster"]) for row in assigned] == [("a", low), ("b", low), ("c", high), ("d", high)]
    # Centres (1.25, 1.625) and (4.5, 6): half the pairs' distances, (0.25, 0.375) and (0.5, 0).
    expected = [np.hypot(0.25, 0.375)] * 2 + [0.5] * 2
    assert [row["distance"] for row in assigned] == pytest.approx(expected, rel=1e-6)
    centroids = {row["cluster"]: row for row in rows_of(made, "centroids.parquet")}
    assert [row["cluster"] for row in rows_of(made, "centroids.parquet")] == [0, 1]
    assert centroids[low]["vector"] == pytest.approx([1.25, 1.625], rel=1e-6)
    assert centroids[high]["vector"] == pytest.approx([4.5, 6.0], rel=1e-6)
    assert made.record.metrics == {
        "num_examples": 4,
        "num_absent": 1,
        "num_clusters": 2,
        "num_empty_clusters": 0,
        "largest_cluster": 2,
        "mean_distance": pytest.approx(np.mean(expected), rel=1e-6),
    }


def test_same_inputs_give_the_same_bytes(bench: Workbench) -> None:
    rng = np.random.default_rng(0)
    uids = [f"{row:03d}" for row in range(200)]
    values = {t: {uid: (float(rng.normal()), 0.0) for uid in uids} for t in (1, 2, 3)}
    rows = [{"uid": uid, "source": "s", "modality": "image", "dataset": "d"} for uid in uids]
    pool = bench.write("pool", lambda output: output.table("pool.parquet", pa.Table.from_pylist(rows, POOL), POOL))
    whole = extracted(bench, (values, {}))
    halves = extracted(
        bench,
        ({t: {uid: by_uid[uid] for uid in uids[1::2]} for t, by_uid in values.items()}, {}),
        ({t: {uid: by_uid[uid] for uid in uids[::2]} for t, by_uid in values.items()}, {}),
    )
    config = ClusterSection(num_clusters=8, num_iterations=10)
    digests = {bench.run(cluster.run, config, pool=pool, extract=source).record.digest for source in (whole, halves)}
    assert len(digests) == 1
    other_seed = ClusterSection(num_clusters=8, num_iterations=10, seed=1)
    assert bench.run(cluster.run, other_seed, pool=pool, extract=whole).record.digest not in digests


def test_checkpoints_with_other_examples_are_refused(bench: Workbench) -> None:
    source = extracted(bench, ({1: {"a": (1, 0), "b": (1, 0)}, 2: {"a": (1, 0), "c": (1, 0)}}, {}))
    with pytest.raises(BadDataError, match="checkpoint 2 has values of 'alignment' of other examples"):
        bench.run(cluster.run, TWO, pool=make_pool(bench, "abc"), extract=source)


def test_version_without_one_of_the_checkpoints_is_refused(bench: Workbench) -> None:
    first = extracted(bench, ({1: {"a": (1, 0)}, 2: {"a": (1, 0)}}, {}))
    second = extracted(bench, ({1: {"b": (1, 0)}}, {}))
    with pytest.raises(BadDataError, match="checkpoint 2 has values of 'alignment' of other examples"):
        bench.run(cluster.run, TWO, pool=make_pool(bench, "ab"), extract=[first, second])


def test_example_with_neither_score_nor_reason_is_noticed(bench: Workbench) -> None:
    source = extracted(bench, ({1: {"a": (1, 0), "b": (2, 0)}}, {"c": "no_image_after_truncation"}))
    with pytest.raises(BadDataError, match="of 3 examples, 1 have neither a value of 'alignment' nor a reason"):
        bench.run(cluster.run, TWO, pool=make_pool(bench, "abcd"), extract=source)


def test_no_score_at_all_is_refused_with_the_reason(bench: Workbench) -> None:
    reasons = dict.fromkeys("ab", "no_image_after_truncation")
    source = extracted(bench, ({1: {}, 2: {}}, reasons))
    with pytest.raises(
        BadDataError, match=r"none of the 2 .* has the signals of the method: no_image_after_truncation"
    ) as caught:
        bench.run(cluster.run, TWO, pool=make_pool(bench, "ab"), extract=source)
    assert "max_length" in caught.value.remedy


def test_version_of_text_only_beside_one_with_images(bench: Workbench) -> None:
    texts = extracted(bench, ({1: {}}, {"t": "text_only"}))
    images = extracted(bench, ({1: {"a": (1, 0), "b": (2, 0)}}, {}))
    made = bench.run(cluster.run, TWO, pool=make_pool(bench, "ab", "t"), extract=[texts, images])
    assert [row["uid"] for row in rows_of(made, "assignments.parquet")] == ["a", "b"]
    assert rows_of(made, "absent.parquet") == []


def test_more_clusters_than_distinct_trajectories_are_refused(bench: Workbench) -> None:
    source = extracted(bench, ({1: {"a": (1, 1), "b": (2, 0), "c": (0, 3)}}, {}))
    with pytest.raises(UsageError, match="num_clusters is 3, but there are only 2 distinct feature rows"):
        bench.run(
            cluster.run,
            ClusterSection(num_clusters=3, num_iterations=100),
            pool=make_pool(bench, "abc"),
            extract=source,
        )


def test_score_that_is_not_finite_is_refused(bench: Workbench) -> None:
    source = extracted(bench, ({1: {"a": (1, 1), "b": (float("nan"), 0)}}, {}))
    with pytest.raises(BadDataError, match="not finite"):
        bench.run(cluster.run, TWO, pool=make_pool(bench, "ab"), extract=source)


def test_values_instead_of_sums_are_kept_and_clustered_by_entry(bench: Workbench) -> None:
    """Like sums at every checkpoint, other values: only the entries tell the two pairs apart."""
    at_1 = {"a": (4, 0), "b": (4.25, 0), "c": (2, 2), "d": (2, 2.25)}
    at_2 = {"a": (5, 1), "b": (5, 1.25), "c": (3, 3), "d": (3.25, 3)}
    made = bench.run(
        cluster.run,
        ClusterSection(num_clusters=2, num_iterations=100, score="values"),
        pool=make_pool(bench, "abcd"),
        extract=[extracted(bench, ({1: at_1, 2: at_2}, {}), ({1: {}, 2: {}}, {}))],
    )
    rows = rows_of(made, "trajectories.parquet")
    assert [row["trajectory"] for row in rows][::2] == [[[4, 0], [5, 1]], [[2, 2], [3, 3]]]
    clusters = [row["cluster"] for row in rows_of(made, "assignments.parquet")]
    assert clusters[0] == clusters[1] != clusters[2] == clusters[3]
    assert len(rows_of(made, "centroids.parquet")[0]["vector"]) == 4
