"""Comparisons of methods that need no proxy, in real processes; trainings are in tests/end_to_end."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.small_world import NUM_IMAGES, NUM_TEXTS, World, land, land_version
from tests.their_methods import EveryOther
from xmas_job.commands.compare import compare
from xmas_job.commands.comparison import read_comparison, start_comparison
from xmas_job.commands.comparison_report import report_comparison
from xmas_job.commands.comparison_request import Request
from xmas_job.commands.resolve import read_run, run_ids
from xmas_job.errors import UsageError, XmasError
from xmas_job.storage import channels

BACKWARDS, EVERY_OTHER, BREAKS, NEEDS_MORE = (
    f"tests.their_methods:{name}" for name in ("Backwards", "EveryOther", "Breaks", "NeedsMore")
)
METHODS = (BACKWARDS, EVERY_OTHER, BREAKS, NEEDS_MORE)
NUM_POOL = NUM_IMAGES + NUM_TEXTS


def request(world: World, *methods: str, budgets: tuple[str, ...] = ("50%", "3")) -> Request:
    return Request(world.recipe(), methods or METHODS, budgets)


@pytest.fixture(scope="session")
def _compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, dict[str, Any]]:
    landed = land(tmp_path_factory.mktemp("compared") / "world")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in landed.variables.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        return landed, dict(compare(landed.environment, request(landed), "c", None))


@pytest.fixture
def compared(_compared: tuple[World, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> World:
    """Four methods at two budgets; not to be changed."""
    for name, value in _compared[0].variables.items():
        monkeypatch.setenv(name, value)
    return _compared[0]


@pytest.fixture
def result(_compared: tuple[World, dict[str, Any]]) -> dict[str, Any]:
    """What that comparison printed."""
    return _compared[1]


def rows_of(result: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["method"].rpartition(":")[2], row["budget"]): row for row in result["results"]}


def test_every_method_is_shown_whatever_came_of_it(result: dict[str, Any]) -> None:
    rows = rows_of(result)
    assert [rows[name, "50%"]["state"] for name in ("Backwards", "EveryOther", "Breaks", "NeedsMore")] == [
        "done",
        "done",
        "failed",
        "refused",
    ]
    assert rows["Breaks", "3"]["error"] == "select:subset: ArithmeticError: out of luck"
    assert "signal 'curvature', which does not exist" in rows["NeedsMore", "3"]["error"]
    assert rows["NeedsMore", "3"]["remedy"].startswith("Signals are: ")
    assert rows["NeedsMore", "3"]["run_id"] is None
    assert (rows["Backwards", "50%"]["num_examples"], rows["Backwards", "3"]["num_examples"]) == (NUM_POOL // 2, 3)
    assert result["verdict"] == "not measured"


def test_runs_are_ordinary_ones_and_move_no_channel_of_the_recipe(compared: World, result: dict[str, Any]) -> None:
    run = read_run(compared.store, "c.tests.their_methods-Backwards.50pct")
    assert run.config.publish.budget == "50%"
    assert run.config.datasets == ("demo@v1",)
    assert channels.current(compared.store, "latest") is None
    moved = {move.selection for move in channels.history(compared.store, "comparison")}
    assert moved == {row["selection_id"] for row in result["results"] if row["selection_id"]}


def test_what_runs_share_is_built_once(compared: World) -> None:
    for stage in ("ingest", "pool"):
        assert len(list((compared.folder / f"store/artifacts/{stage}").glob("*/attempts/*"))) == 1, stage
    # Backwards is nested: one ranking for both budgets. EveryOther chooses for each. Breaks never finishes its one.
    assert len(list((compared.folder / "store/artifacts/select").glob("*/record.json"))) == 3


def test_overlap_is_that_of_the_published_files(compared: World, result: dict[str, Any]) -> None:
    folder = compared.folder / "store/selections"
    rows = rows_of(result)
    subsets = [
        set(pq.read_table(folder / rows[name, "50%"]["selection_id"] / "subset.parquet")["uid"].to_pylist())
        for name in ("Backwards", "EveryOther")
    ]
    common = len(subsets[0] & subsets[1])
    (overlap,) = [found for found in result["overlaps"] if found["budget"] == "50%"]
    assert overlap["methods"] == [BACKWARDS, EVERY_OTHER]
    # Of twelve uids in order, the last six and every other one: three of six, three of nine in either.
    assert (common, len(subsets[0])) == (3, 6)
    assert overlap["shared"] == [[1.0, 0.5], [0.5, 1.0]]
    assert overlap["jaccard"] == [[1.0, 3 / 9], [3 / 9, 1.0]]
    assert overlap["by_chance"] == 0.5


def test_cost_is_that_of_the_stages_behind_a_method(compared: World, result: dict[str, Any]) -> None:
    records = [json.loads(path.read_bytes()) for path in (compared.folder / "store/artifacts").glob("*/*/record.json")]
    seconds: dict[str, list[float]] = {}
    for record in records:
        seconds.setdefault(record["stage"], []).append(record["provenance"]["seconds"])
    (row,) = [row for row in result["costs"]["rows"] if (row["method"], row["budget"]) == (BACKWARDS, "50%")]
    assert set(row["stages"]) == {"ingest", "pool", "select", "publish"}
    assert row["groups"]["data"] == pytest.approx(seconds["ingest"][0] + seconds["pool"][0])
    assert row["choosing"] == pytest.approx(sum(row["stages"].values()))
    # A failed method has paid for what came before it; each artifact counts once in what was paid.
    paid = sum(sum(seconds[stage]) for stage in ("ingest", "pool", "select", "publish"))
    assert result["costs"]["seconds_paid"] == pytest.approx(paid)
    assert result["costs"]["seconds_if_apart"] > result["costs"]["seconds_paid"]


def test_repetition_starts_a_process_only_for_what_failed(
    compared: World, result: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    done = compare(compared.environment, request(compared, BACKWARDS, EVERY_OTHER), None, None)
    assert {row["state"] for row in done["results"]} == {"done"}  # type: ignore[union-attr,index,call-overload]
    again = compare(compared.environment, request(compared, BACKWARDS, EVERY_OTHER), None, None)
    assert again == done
    assert report_comparison(compared.environment, "c") == result


def test_what_another_version_of_a_method_built_is_told_and_not_shown(
    compared: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        monkeypatch.setattr(EveryOther, "entry", dataclasses.replace(EveryOther.entry, version=9))
        found = rows_of(dict(report_comparison(compared.environment, "c")))
    finally:
        monkeypatch.undo()
        report_comparison(compared.environment, "c")
    assert found["Backwards", "50%"]["state"] == "done"
    assert found["EveryOther", "50%"]["state"] == "unfinished"
    assert "of another version of xmas_job" in found["EveryOther", "50%"]["error"]
    assert found["EveryOther", "50%"]["num_examples"] is None


def test_page_and_json_lie_beside_each_other(compared: World, result: dict[str, Any]) -> None:
    assert result["report"] == f"{compared.store.uri}/comparisons/c/report/index.html"
    page = compared.store.read("comparisons/c/report/index.html").decode()
    numbers = json.loads(compared.store.read("comparisons/c/report/report.json"))
    assert numbers["results"] == result["results"]
    for shown in ("out of luck", "curvature", "../../../runs/c.tests.their_methods-Backwards.50pct/report/index.html"):
        assert shown in page
    assert "http" not in page


def test_same_request_on_the_same_data_is_the_same_comparison(world: World) -> None:
    asked = request(world, BACKWARDS, "random")
    one, other = (start_comparison(world.store, asked, None) for _ in range(2))
    assert one == other == read_comparison(world.store, one.comparison_id)
    assert sorted(run_ids(world.store)) == sorted(one.run_id(entry) for entry in one.running)
    land_version(world, "demo", "v2")
    newer = start_comparison(world.store, asked, None)
    assert newer.comparison_id != one.comparison_id
    assert {entry.config.datasets for entry in newer.running if entry.config} == {("demo@v2",)}


def test_comparison_in_flight_keeps_its_data(world: World) -> None:
    asked = request(world, BACKWARDS)
    one = start_comparison(world.store, asked, "kept")
    land_version(world, "demo", "v2")
    assert start_comparison(world.store, asked, "kept") == one
    with pytest.raises(UsageError, match="comparison kept was started with another request"):
        start_comparison(world.store, request(world, EVERY_OTHER), "kept")


def test_nothing_is_built_or_written_for_a_wrong_request(world: World) -> None:
    for methods, budgets, says in [
        (("magic",), ("50%",), "unknown method 'magic'"),
        ((BACKWARDS,), ("0",), "selects nothing"),
        ((BACKWARDS,), (), "no budget is named"),
        ((), ("50%",), "no method is named"),
        ((BACKWARDS, BACKWARDS), ("50%",), "Backwards' and 'tests.their_methods:Backwards' are the same"),
        ((BACKWARDS,), ("3", "50%", "0.5"), "'50%' and '0.5' are the same"),
        ((NEEDS_MORE,), ("50%",), "signal 'curvature'"),
    ]:
        with pytest.raises(UsageError, match=says):
            compare(world.environment, Request(world.recipe(), methods, budgets), None, None)
    with pytest.raises(UsageError, match="dataset 'none' has no landed version"):
        compare(
            world.environment, Request(world.recipe(), ("random",), ("3",), None, ('datasets=["none"]',)), None, None
        )
    for folder in ("artifacts", "runs", "comparisons"):
        assert list(world.store.list(folder)) == []


def test_method_whose_model_is_not_there_is_refused_before_the_others_start(world: World) -> None:
    comparison = start_comparison(world.store, request(world, "xmas", "random", budgets=("3",)), "c")
    xmas, random = comparison.entries
    assert xmas.config is None
    assert "'models/none' is no model folder" in xmas.error
    assert random.config is not None
    assert run_ids(world.store) == ["c.random.3"]


def test_comparison_of_which_every_run_fails_fails_with_the_first_error(world: World) -> None:
    with pytest.raises(XmasError, match="budget 13 is above the pool"):
        compare(world.environment, request(world, "random", budgets=("13",)), "c", None)
    (row,) = json.loads(world.store.read("comparisons/c/report/report.json"))["results"]
    assert (row["state"], row["error"][:36]) == ("failed", "pool: budget 13 is above the pool: 1")


def test_unknown_comparison_is_refused(world: World) -> None:
    with pytest.raises(UsageError, match="there is no comparison 'none'"):
        report_comparison(world.environment, "none")
    with pytest.raises(UsageError, match="no part of a key"):
        report_comparison(world.environment, "../c")
