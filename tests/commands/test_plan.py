from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.small_world import World
from tests.toy_line import toy_runner
from xmas_job.commands.plan import _state, plan_run
from xmas_job.commands.resolve import start_run
from xmas_job.commands.stage import run_stage
from xmas_job.models.size import read_size


def states(world: World, **changes: Any) -> dict[str, str]:
    planned: Any = plan_run(world.environment, world.config(**changes))
    return {stage["stage"]: stage["state"] for stage in planned["stages"]}


def test_states_follow_what_is_there(world: World) -> None:
    rest = dict.fromkeys(("select:subset", "publish:subset", "report"), "UNKNOWN")
    assert states(world) == {"ingest:demo@v1": "MISS", "pool": "UNKNOWN", **rest}
    start_run(world.config(), world.store, "r")
    run_stage(world.environment, "r", "ingest:demo@v1", None)
    assert states(world) == {"ingest:demo@v1": "HIT", "pool": "MISS", **rest}
    run_stage(world.environment, "r", "pool", None)
    assert states(world) == {"ingest:demo@v1": "HIT", "pool": "HIT", **rest, "select:subset": "MISS"}
    assert states(world, pool={"excluded_uids": ["x"]}) == {"ingest:demo@v1": "HIT", "pool": "MISS", **rest}


def test_finished_line_is_all_hits_with_what_they_cost(finished: World) -> None:
    planned: Any = plan_run(finished.environment, finished.config())
    assert {stage["state"] for stage in planned["stages"]} == {"HIT"}
    for stage in planned["stages"]:
        assert stage["artifact"].startswith(f"artifacts/{stage['stage'].partition(':')[0]}/")
        assert stage["seconds_when_built"] > 0


def test_other_budget_misses_publish_only(finished: World) -> None:
    assert states(finished, publish={"budget": "2"}) == {
        **dict.fromkeys(("ingest:demo@v1", "pool", "select:subset"), "HIT"),
        "publish:subset": "MISS",
        "report": "UNKNOWN",
    }


def test_partitioned_stage_counts_its_partitions(tmp_path: Path) -> None:
    runner = toy_runner(tmp_path)
    node = runner.run.nodes["squares"]
    assert _state(runner, node)["state"] == "UNKNOWN"
    runner.run_stage("numbers:a")
    assert (_state(runner, node)["state"], _state(runner, node)["partitions"]) == ("MISS", [0, 3])
    runner.run_stage("squares", partition=2)
    assert (_state(runner, node)["state"], _state(runner, node)["partitions"]) == ("PARTIAL", [1, 3])
    runner.run_stage("squares")
    assert _state(runner, node)["state"] == "HIT"


def test_planning_writes_nothing(world: World) -> None:
    before = list(world.store.list(""))
    states(world)
    assert list(world.store.list("")) == before
    assert not (world.folder / "scratch").exists()


def test_plan_has_the_resolved_configuration(world: World) -> None:
    planned: Any = plan_run(world.environment, world.config())
    assert planned["config"]["datasets"] == ["demo@v1"]
    assert planned["store"] == world.store.uri


def test_what_gpu_stages_will_cost_is_told_once_the_data_are_counted(world: World) -> None:
    """A model of known shapes: 1000 weights of language, 200 of vision, 40 of the projector, 9 image tokens."""
    folder = world.folder / "store/models/tiny"
    folder.mkdir(parents=True)
    shapes = {"language_model.a": [10, 100], "vision_tower.b": [200], "multi_modal_projector.c": [4, 10]}
    header = json.dumps({name: {"shape": shape} for name, shape in shapes.items()}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    text = {"hidden_size": 10, "num_hidden_layers": 2, "vocab_size": 50}
    (folder / "config.json").write_text(json.dumps({"text_config": text, "image_seq_length": 9}))
    changes = {"select": {"method": "xmas"}, "proxy": {"model": "models/tiny", "training": {"num_epochs": 2}}}

    def estimates() -> dict[str, Any]:
        planned: Any = plan_run(world.environment, world.config(**changes))
        return {stage["stage"]: stage["estimate"] for stage in planned["stages"]}

    assert estimates()["train_proxy"] is None
    start_run(world.config(), world.store, "r")
    run_stage(world.environment, "r", "ingest:demo@v1", None)
    found = estimates()
    # 9 pictures; words: 9 x ("How red, n?" + answer) 4 + 3 x ("What is n?" + answer) 4 = 48, 64 tokens; 145 in all.
    # Two epochs of 6 x 1000 x 145 + (6 x 40 + 2 x 200) x 81 = 921,840 FLOPs; at 40 % of 19.5 TFLOPS.
    assert found["train_proxy"]["pflops"] == pytest.approx(1.844e-9)
    assert found["train_proxy"]["gpu_hours"] == pytest.approx(6.566e-11)
    assert found["train_proxy"]["gpu"] == "A100"
    assert found["train_proxy"]["memory_gb"] is not None
    assert found["extract:demo@v1"]["memory_gb"] is None
    assert found["pool"] is None
    size = read_size(folder)
    assert size is not None
    assert (size.language, size.vision, size.projector, size.image_tokens) == (1000, 200, 40, 9)
