from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from tests.stages.workbench import Workbench, rows_of
from xmas_job.config import SelectConfig
from xmas_job.errors import UsageError
from xmas_job.stages import select
from xmas_job.storage.output import Output
from xmas_job.storage.record import Artifact
from xmas_job.storage.schemas import ABSENT, ASSIGNMENTS, POOL, centroid_schema, trajectory_schema

# Cluster 3: a (instability 2), b (0.5), f (1); cluster 0: d (0.25); m has no score; t and u are text-only.
TRAJECTORIES = {"a": [1.0, 3.0], "b": [1.0, 1.5], "d": [2.0, 1.75], "f": [4.0, 5.0]}
CLUSTERS = {"a": 3, "b": 3, "d": 0, "f": 3}


@pytest.fixture
def pool(bench: Workbench) -> Artifact:
    modality = {"t": "text", "u": "text"}
    rows = [{"uid": uid, "source": "s", "modality": modality.get(uid, "image"), "dataset": "d@v1"} for uid in "abdfmtu"]
    return bench.write("pool", lambda output: output.table("pool.parquet", pa.Table.from_pylist(rows, POOL), POOL))


@pytest.fixture
def clustered(bench: Workbench) -> Artifact:
    trajectories = [{"uid": uid, "trajectory": values} for uid, values in TRAJECTORIES.items()]
    assignments = [{"uid": uid, "cluster": number, "distance": 0.0} for uid, number in CLUSTERS.items()]
    absent = [{"uid": "m", "reason": "no_image_after_truncation"}]

    def fill(output: Output) -> None:
        schema = trajectory_schema(2)
        output.table("trajectories.parquet", pa.Table.from_pylist(trajectories, schema), schema)
        output.table("assignments.parquet", pa.Table.from_pylist(assignments, ASSIGNMENTS), ASSIGNMENTS)
        centroids = [{"cluster": number, "size": 1, "vector": [0.0, 0.0]} for number in range(4)]
        output.table("centroids.parquet", pa.Table.from_pylist(centroids, centroid_schema(2)), centroid_schema(2))
        output.table("absent.parquet", pa.Table.from_pylist(absent, ABSENT), ABSENT)

    return bench.write("cluster", fill)


def by_rank(artifact: Artifact) -> list[dict[str, Any]]:
    rows = rows_of(artifact, "ranking.parquet")
    assert [row["uid"] for row in rows] == sorted(row["uid"] for row in rows)
    return sorted(rows, key=lambda row: row["rank"])


def test_ranking_by_hand(bench: Workbench, pool: Artifact, clustered: Artifact) -> None:
    made = bench.run(select.run, SelectConfig(text_only="exclude"), pool=pool, cluster=clustered)
    assert by_rank(made) == [
        {"uid": "b", "rank": 1, "stratum": "image", "cluster": 3, "instability": 0.5, "rank_in_cluster": 1},
        {"uid": "d", "rank": 2, "stratum": "image", "cluster": 0, "instability": 0.25, "rank_in_cluster": 1},
        {"uid": "f", "rank": 3, "stratum": "image", "cluster": 3, "instability": 1.0, "rank_in_cluster": 2},
        {"uid": "a", "rank": 4, "stratum": "image", "cluster": 3, "instability": 2.0, "rank_in_cluster": 3},
    ]
    # The absent example is eligible, but cannot be ranked; text-only ones are not eligible.
    assert made.record.metrics == {"num_eligible": 5, "num_ranked": 4, "num_absent": 1}


def test_text_only_examples_join_by_their_share(bench: Workbench, pool: Artifact, clustered: Artifact) -> None:
    made = bench.run(select.run, SelectConfig(), pool=pool, cluster=clustered)
    ranking = by_rank(made)
    # floor(2n / 6): one text-only example at rank 3, one at rank 6; those without a score do not count.
    assert [row["stratum"] for row in ranking] == ["image", "image", "text", "image", "image", "text"]
    assert [row["uid"] for row in ranking if row["stratum"] == "image"] == ["b", "d", "f", "a"]
    texts = [row for row in ranking if row["stratum"] == "text"]
    assert [(row["cluster"], row["instability"], row["rank_in_cluster"]) for row in texts] == [
        (-1, None, 1),
        (-1, None, 2),
    ]
    assert made.record.metrics == {"num_eligible": 7, "num_ranked": 6, "num_absent": 1}


def test_text_only_cluster_gets_the_next_number(bench: Workbench, pool: Artifact, clustered: Artifact) -> None:
    ranking = by_rank(bench.run(select.run, SelectConfig(text_only="cluster"), pool=pool, cluster=clustered))
    assert [(row["cluster"], row["rank_in_cluster"]) for row in ranking] == [
        (3, 1), (4, 1), (0, 1), (3, 2), (4, 2), (3, 3)
    ]  # fmt: skip


def test_absent_examples_are_ranked_by_methods_that_need_no_score(bench: Workbench, pool: Artifact) -> None:
    made = bench.run(select.run, SelectConfig(method="random"), pool=pool)
    ranking = by_rank(made)
    assert sorted(row["uid"] for row in ranking) == list("abdfmtu")
    assert {(row["cluster"], row["instability"]) for row in ranking} == {(-1, None)}
    assert [row["rank_in_cluster"] for row in ranking] == list(range(1, 8))
    assert made.record.metrics == {"num_eligible": 7, "num_ranked": 7, "num_absent": 0}


def test_seed_decides_what_is_drawn(bench: Workbench, pool: Artifact) -> None:
    digests = [
        bench.run(select.run, SelectConfig(method="random", seed=seed), pool=pool).record.digest for seed in (0, 0, 1)
    ]
    assert digests[0] == digests[1]
    assert digests[1] != digests[2]


def test_parameters_reach_the_method(bench: Workbench, pool: Artifact, clustered: Artifact) -> None:
    config = SelectConfig(text_only="exclude", params={"small_clusters": "drop"})
    made = bench.run(select.run, config, pool=pool, cluster=clustered)
    assert [row["uid"] for row in by_rank(made)] == ["b", "f", "a"]  # cluster 0 has one member
    assert made.record.metrics["num_eligible"] == 5


def test_unknown_parameter_is_refused_with_the_known_ones(
    bench: Workbench, pool: Artifact, clustered: Artifact
) -> None:
    with pytest.raises(UsageError, match="xmas has no parameter 'temperature'") as caught:
        bench.run(select.run, SelectConfig(params={"temperature": 1}), pool=pool, cluster=clustered)
    assert caught.value.remedy == "It has: instability, small_clusters, within_cluster."
    with pytest.raises(UsageError, match="random has no parameter 'seed'") as caught:
        bench.run(select.run, SelectConfig(method="random", params={"seed": 1}), pool=pool)
    assert caught.value.remedy == "It has: none."


def test_value_that_a_parameter_does_not_take_is_refused(bench: Workbench, pool: Artifact, clustered: Artifact) -> None:
    with pytest.raises(UsageError, match=r"select\.params\.within_cluster: .*'stable' or 'random'"):
        bench.run(select.run, SelectConfig(params={"within_cluster": "stabel"}), pool=pool, cluster=clustered)
