from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.small_world import World
from xmas_job.commands.resolve import start_run
from xmas_job.commands.reuse import reuse
from xmas_job.commands.stage import run_stage
from xmas_job.errors import MissingInputError, UsageError
from xmas_job.pipeline import STAGES
from xmas_job.storage.journal import outcome_key


def test_nothing_there_is_all_to_build(world: World) -> None:
    start_run(world.config(), world.store, "r")
    assert reuse(world.environment, "r", "ingest") == {
        "stage": "ingest",
        "reused": [],
        "to_build": [{"stage": "ingest:demo@v1"}],
    }
    assert list(world.store.list("artifacts")) == []


def test_what_is_there_is_noted_in_the_run(finished: World) -> None:
    start_run(finished.config(), finished.store, "second")
    for spec in STAGES:
        found = reuse(finished.environment, "second", spec.name)
        assert found["to_build"] == []
        for node in found["reused"]:
            assert json.loads(finished.store.read(outcome_key("second", node)))["status"] == "hit"
    assert finished.store.exists("runs/second/report/index.html")


def test_stage_that_the_run_does_not_need_is_empty(world: World) -> None:
    start_run(world.config(), world.store, "r")
    assert reuse(world.environment, "r", "train_proxy") == {"stage": "train_proxy", "reused": [], "to_build": []}


def test_stage_before_its_inputs_is_refused(world: World) -> None:
    start_run(world.config(), world.store, "r")
    with pytest.raises(MissingInputError, match="the output of ingest:demo@v1 is not there"):
        reuse(world.environment, "r", "pool")


def test_reused_pool_too_small_for_the_budget_is_refused(world: World) -> None:
    for run_id, budget in {"r": "50%", "s": "10000"}.items():
        start_run(world.config(publish={"budget": budget}), world.store, run_id)
    run_stage(world.environment, "r", "ingest:demo@v1", None)
    run_stage(world.environment, "r", "pool", None)
    with pytest.raises(UsageError, match="budget 10000 is above the pool"):
        reuse(world.environment, "s", "pool")


def test_key_in_place_of_a_stage_is_refused(world: World) -> None:
    start_run(world.config(), world.store, "r")
    with pytest.raises(UsageError, match="the line has no stage 'ingest:demo@v1'"):
        reuse(world.environment, "r", "ingest:demo@v1")


@pytest.mark.parametrize("command", ["reuse publish", "stage publish:subset"])
def test_a_hit_loads_no_torch(finished: World, command: str) -> None:
    start_run(finished.config(), finished.store, "light")
    code = (
        f"import sys; from xmas_job.cli import app; app('{command} --run light'.split(), standalone_mode=False);"
        "print([name for name in ('torch', 'transformers', 'faiss') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
