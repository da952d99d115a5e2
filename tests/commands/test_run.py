"""The line in real processes: landed data to a published subset and a report, by a method that needs no proxy."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.small_world import NUM_IMAGES, NUM_TEXTS, World
from xmas_job.commands.run import run_line
from xmas_job.errors import BadDataError, UsageError
from xmas_job.storage import channels

STAGES = ["ingest:demo@v1", "pool", "select:subset", "publish:subset", "report"]


def statuses(result: Any) -> dict[str, str]:
    return {stage["stage"]: stage["status"] for stage in result["stages"]}


def test_first_run_builds_every_stage_and_publishes(finished: World, first_result: dict[str, Any]) -> None:
    assert statuses(first_result) == dict.fromkeys(STAGES, "built")
    assert first_result["status"] == "done"
    assert first_result["missing"] == []
    assert first_result["num_examples"] == (NUM_IMAGES + NUM_TEXTS) // 2
    selection_id = first_result["selection_id"]
    assert first_result["manifest"] == f"{finished.store.uri}/selections/{selection_id}/manifest.json"
    assert first_result["report"] == f"{finished.store.uri}/runs/first/report/index.html"
    moved = channels.current(finished.store, "latest")
    assert moved is not None
    assert moved.selection == selection_id


def test_every_stage_tells_its_events(first_events: list[tuple[str, Any]]) -> None:
    for stage in STAGES:
        own = [event for name, event in first_events if name == stage]
        assert [event["event"] for event in own if event["event"].startswith("stage ")] == [
            "stage started",
            "stage done",
        ]
        assert {event["stage"] for event in own} == {stage}
        assert {event["run"] for event in own} == {"first"}


def test_second_run_finds_everything_and_starts_no_process(
    finished: World, first_result: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    result = run_line(finished.environment, finished.config(), "second", None)
    assert statuses(result) == dict.fromkeys(STAGES, "hit")
    assert result["selection_id"] == first_result["selection_id"]
    assert finished.store.exists("runs/second/report/index.html")


def test_other_budget_rebuilds_publish_and_report_only(finished: World, first_result: dict[str, Any]) -> None:
    result = run_line(finished.environment, finished.config(publish={"budget": "3"}), "smaller", None)
    assert statuses(result) == {**dict.fromkeys(STAGES, "hit"), "publish:subset": "built", "report": "built"}
    assert result["num_examples"] == 3
    assert result["selection_id"] != first_result["selection_id"]


def test_two_stores_publish_the_same_bytes(finished: World, first_result: dict[str, Any], world: World) -> None:
    again = run_line(world.environment, world.config(), "elsewhere", None)
    assert again["selection_id"] == first_result["selection_id"]
    digests = [{stage["stage"]: stage["digest"] for stage in result["stages"]} for result in (first_result, again)]
    assert digests[0] == digests[1]
    prefix = f"selections/{again['selection_id']}"
    for name in ("manifest.json", "subset.parquet", "ranking.parquet", "exports/llava.json"):
        assert world.store.read(f"{prefix}/{name}") == finished.store.read(f"{prefix}/{name}"), name


def test_error_of_a_stage_is_raised_and_nothing_is_published(world: World) -> None:
    (world.folder / "store/landing/demo/v1/data.json").write_text("[]")
    with pytest.raises(BadDataError, match="has no rows") as caught:
        run_line(world.environment, world.config(), "bad", lambda _stage, _event: None)
    assert caught.value.remedy == "Land data with at least one row."
    assert not (world.folder / "store/selections").exists()
    assert not (world.folder / "store/channels").exists()
    assert _stage_processes() == []


def test_refused_request_goes_on_under_another_run(finished: World) -> None:
    """A budget above the pool is refused after `pool`, which stays built."""
    with pytest.raises(UsageError, match="budget 13 is above the pool: 12 examples"):
        run_line(finished.environment, finished.config(publish={"budget": "13"}), "too-much", None)
    assert json.loads(finished.store.read("runs/too-much/run.json"))["config"]["publish"] == {"budget": "13"}
    assert not finished.store.exists("runs/too-much/stages/publish.subset.json")


def _stage_processes() -> list[psutil.Process]:
    return [
        child for child in psutil.Process(os.getpid()).children(recursive=True) if "xmas_job.cli" in child.cmdline()
    ]


def test_scratch_is_empty_after_a_run(finished: World) -> None:
    assert list(Path(finished.environment.scratch).iterdir()) == []
