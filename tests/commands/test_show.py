from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.small_world import World
from xmas_job.commands.resolve import start_run
from xmas_job.commands.show import show_run
from xmas_job.commands.stage import run_stage
from xmas_job.errors import UsageError


def test_finished_run_is_shown_as_it_was_printed(finished: World, first_result: dict[str, Any]) -> None:
    assert show_run(finished.environment, "first") == first_result
    assert first_result.keys() == {
        *("run", "status", "selection_id", "num_examples", "manifest", "report", "channel", "stages", "missing")
    }
    for stage in first_result["stages"]:
        assert stage.keys() == {"stage", "status", "seconds", "digest"}


def test_unfinished_run_shows_what_is_missing(world: World) -> None:
    start_run(world.config(), world.store, "r")
    run_stage(world.environment, "r", "ingest:demo@v1", None)
    shown: Any = show_run(world.environment, "latest")
    assert (shown["run"], shown["status"]) == ("r", "unfinished")
    assert [stage["stage"] for stage in shown["stages"]] == ["ingest:demo@v1"]
    assert shown["missing"] == ["pool", "select:subset", "publish:subset", "report"]
    assert (shown["selection_id"], shown["num_examples"], shown["manifest"], shown["report"]) == (None,) * 4


def test_run_whose_selection_was_cleared_away_is_still_shown(finished: World, tmp_path: Path) -> None:
    shutil.copytree(finished.folder, tmp_path / "world")
    own = World(tmp_path / "world")
    shutil.rmtree(own.folder / "store/artifacts/publish")
    shown: Any = show_run(own.environment, "first")
    assert (shown["run"], shown["status"], shown["missing"]) == ("first", "done", [])
    assert (shown["selection_id"], shown["num_examples"], shown["manifest"]) == (None, None, None)


def test_latest_of_an_empty_store_is_refused(world: World) -> None:
    with pytest.raises(UsageError, match="there is no run in") as caught:
        show_run(world.environment, "latest")
    assert caught.value.remedy.startswith("Start one")
