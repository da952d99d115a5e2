from __future__ import annotations

import pytest

from tests.small_world import World
from xmas_job.commands.resolve import start_run
from xmas_job.commands.stage import run_stage
from xmas_job.errors import MissingInputError, UsageError


def test_stage_is_built_then_found(world: World) -> None:
    start_run(world.config(), world.store, "r")
    built = run_stage(world.environment, "r", "ingest:demo@v1", None)
    assert (built["stage"], built["status"]) == ("ingest:demo@v1", "built")
    assert str(built["artifact"]).startswith(f"{world.store.uri}/artifacts/ingest/")
    found = run_stage(world.environment, "r", "ingest:demo@v1", None)
    assert found["status"] == "hit"
    assert (found["digest"], found["artifact"]) == (built["digest"], built["artifact"])


def test_unknown_stage_is_refused_with_those_of_the_run(world: World) -> None:
    start_run(world.config(), world.store, "r")
    with pytest.raises(UsageError, match="run r has no stage 'ingest'") as caught:
        run_stage(world.environment, "r", "ingest", None)
    assert "ingest:demo@v1, pool" in caught.value.remedy


def test_unknown_run_is_refused(world: World) -> None:
    with pytest.raises(UsageError, match="there is no run 'r'"):
        run_stage(world.environment, "r", "pool", None)


def test_stage_before_its_inputs_names_their_command(world: World) -> None:
    start_run(world.config(), world.store, "r")
    with pytest.raises(MissingInputError) as caught:
        run_stage(world.environment, "r", "pool", None)
    assert caught.value.remedy == "Build it: xmas-job stage ingest:demo@v1 --run r"


def test_partition_of_a_stage_in_one_piece_is_refused(world: World) -> None:
    start_run(world.config(), world.store, "r")
    with pytest.raises(UsageError, match="stage ingest:demo@v1 has no partition 0"):
        run_stage(world.environment, "r", "ingest:demo@v1", 0)
    assert list(world.store.list("artifacts")) == []
