from __future__ import annotations

from typing import Any

import pytest

from tests.stages.workbench import Workbench, example_row, make_run, rows_of
from xmas_job.config import PoolConfig
from xmas_job.errors import BadDataError, UsageError
from xmas_job.stages import pool


def dropped(uid: str, dataset: str, source_row: int, reason: str, kept_in: str | None) -> dict[str, Any]:
    place = {"dataset": dataset, "source_uri": "landing/d/v1/data.json", "source_row": source_row}
    return {"uid": uid, **place, "reason": reason, "kept_in": kept_in}


def test_takedowns_go_first_then_duplicates_within_and_across_versions(bench: Workbench) -> None:
    first = bench.examples(
        "d@v1",
        [
            example_row("a", source_row=0),
            example_row("b", source="late", source_row=4),
            example_row("b", source="gqa", source_row=1),
            example_row("t", "text", source="text", source_row=5),
        ],
    )
    second = bench.examples(
        "d@v2",
        [example_row("a", source_row=2), example_row("b", source="v2", source_row=3), example_row("c", source_row=0)],
    )
    made = bench.run(pool.run, PoolConfig(excluded_uids=("a", "nobody")), ingest=[first, second])
    assert rows_of(made, "pool.parquet") == [
        {"uid": "b", "source": "gqa", "modality": "image", "dataset": "d@v1"},
        {"uid": "c", "source": "coco", "modality": "image", "dataset": "d@v2"},
        {"uid": "t", "source": "text", "modality": "text", "dataset": "d@v1"},
    ]
    # "a" was taken down in both places: its second place is no duplicate.
    assert rows_of(made, "dropped.parquet") == [
        dropped("a", "d@v1", 0, "excluded", None),
        dropped("a", "d@v2", 2, "excluded", None),
        dropped("b", "d@v1", 4, "duplicate", "d@v1"),
        dropped("b", "d@v2", 3, "duplicate", "d@v1"),
    ]
    assert made.record.metrics == {"num_examples": 3, "num_text_only": 1, "num_excluded": 2, "num_duplicates": 2}


def test_first_version_named_keeps_an_example(bench: Workbench) -> None:
    versions = [bench.examples(name, [example_row("a", source=name)]) for name in ("d@v2", "d@v1")]
    made = bench.run(pool.run, PoolConfig(), ingest=versions)
    assert rows_of(made, "pool.parquet", ["source", "dataset"]) == [{"source": "d@v2", "dataset": "d@v2"}]
    assert rows_of(made, "dropped.parquet", ["dataset", "kept_in"]) == [{"dataset": "d@v1", "kept_in": "d@v2"}]


def test_pool_without_losses_has_an_empty_list_of_them(bench: Workbench) -> None:
    made = bench.run(pool.run, PoolConfig(), ingest=bench.examples("d@v1", [example_row("a")]))
    assert rows_of(made, "dropped.parquet") == []
    assert made.record.metrics["num_text_only"] == 0


def test_empty_pool_is_refused(bench: Workbench) -> None:
    landed = bench.examples("d@v1", [example_row("a"), example_row("b")])
    with pytest.raises(BadDataError, match="pool is empty: 0 rows after 2 takedowns") as caught:
        bench.run(pool.run, PoolConfig(excluded_uids=("a", "b")), ingest=landed)
    assert caught.value.exit_code == 64


# Eight examples, two of them text-only.
METRICS = {"num_examples": 8, "num_text_only": 2, "num_excluded": 0, "num_duplicates": 0}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"publish": {"budget": "9"}}, "budget 9 is above the pool: 8 examples are eligible"),
        (
            {"publish": {"budget": "7"}, "select": {"text_only": "exclude"}},
            "budget 7 is above the pool: 6 examples are eligible",
        ),
        ({"cluster": {"num_clusters": 7}}, "num_clusters is 7, but 6 examples have an image"),
        ({"select": {"params": {"within": "random"}}}, "xmas has no parameter 'within'"),
        ({"select": {"params": {"small_clusters": "throw"}}}, r"select\.params\.small_clusters: Input should be"),
    ],
)
def test_request_that_the_pool_cannot_serve_is_refused(bench: Workbench, config: dict[str, Any], message: str) -> None:
    made = bench.write("pool", lambda _: None, metrics=METRICS)
    with pytest.raises(UsageError, match=message):
        pool.check_request(made, make_run(**{"cluster": {"num_clusters": 2}, **config}), "")


@pytest.mark.parametrize(
    "config",
    [
        {"publish": {"budget": "8"}},
        {"publish": {"budget": "100%"}},
        {"publish": {"budget": "6"}, "select": {"text_only": "exclude"}},
        {"cluster": {"num_clusters": 6}},
        {"cluster": {"num_clusters": 900}, "select": {"method": "random"}},  # nothing is clustered
        {"select": {"params": {"small_clusters": "drop"}}},
    ],
)
def test_request_that_the_pool_can_serve_passes(bench: Workbench, config: dict[str, Any]) -> None:
    made = bench.write("pool", lambda _: None, metrics=METRICS)
    pool.check_request(made, make_run(**{"cluster": {"num_clusters": 2}, **config}), "")
