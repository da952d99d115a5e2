"""The line from landed data to a report, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.end_to_end.line import World


def read(uri: str) -> bytes:
    return Path(uri.removeprefix("file://")).read_bytes()


def test_run_publishes_what_show_names(finished: World) -> None:
    shown = json.loads(finished.call("show", "latest", "--json").stdout)
    assert shown["status"] == "done"
    assert shown["missing"] == []
    assert {stage["status"] for stage in shown["stages"]} == {"built"}
    assert all(len(stage["digest"]) == 64 and stage["seconds"] > 0 for stage in shown["stages"])
    manifest = json.loads(read(shown["manifest"]))
    assert manifest["selection_id"] == shown["selection_id"]
    assert manifest["resolved"]["num_examples"] == shown["num_examples"]
    assert read(shown["report"]).lower().startswith(b"<!doctype html>")


def test_subset_is_the_head_of_the_ranking_and_of_the_size_asked_for(finished: World) -> None:
    shown = json.loads(finished.call("show", "--json").stdout)
    folder = Path(shown["manifest"].removeprefix("file://")).parent
    manifest = json.loads((folder / "manifest.json").read_bytes())
    ranking = pq.read_table(folder / "ranking.parquet")
    subset = pq.read_table(folder / "subset.parquet")
    num_pool = manifest["snapshot"]["num_examples"]
    assert subset.num_rows == num_pool * 20 // 100
    head = {row["uid"] for row in ranking.to_pylist() if row["rank"] <= subset.num_rows}
    assert set(subset["uid"].to_pylist()) == head
    assert np.isclose(np.mean(subset["weight"].to_numpy()), 1.0)


def test_export_is_read_as_llava_trainers_read_it(finished: World) -> None:
    """As in LLaVA's loader: json.load, then image under the image folder, turns by `from` and `value`."""
    shown = json.loads(finished.call("show", "--json").stdout)
    folder = Path(shown["manifest"].removeprefix("file://")).parent
    records = json.loads((folder / "exports/llava.json").read_text())
    assert len(records) == shown["num_examples"]
    for record in records:
        images = record.get("image", [])
        images = [images] if isinstance(images, str) else images
        assert all((finished.store / "landing" / image).is_file() for image in images)
        assert sum(turn["value"].count("<image>") for turn in record["conversations"]) == len(images)
        assert [turn["from"] for turn in record["conversations"]][:2] == ["human", "gpt"]


def test_cost_stands_beside_its_estimate_in_plan_provenance_and_report(finished: World) -> None:
    shown = json.loads(finished.call("show", "--json").stdout)
    provenance = json.loads((Path(shown["manifest"].removeprefix("file://")).parent / "provenance.json").read_bytes())
    report = json.loads((finished.store / "runs/tested/report/report.json").read_bytes())
    planned = json.loads(finished.call("plan", "--recipe", str(finished.recipe), "--json").stdout)
    in_report = {stage["stage"]: stage["cost"] for stage in report["stages"]}
    in_plan = {stage["stage"]: stage for stage in planned["stages"]}
    (record,) = (finished.store / "artifacts/train_proxy").glob("*/record.json")
    told = json.loads(record.read_bytes())
    cost = {name: told["metrics"][name] for name in ("estimated_gpu_hours", "gpu_hours", "estimated_pflops", "pflops")}
    assert 0.3 < cost["pflops"] / cost["estimated_pflops"] < 3  # bytes as tokens here, words times 4/3 there
    assert in_report["train_proxy"] == in_plan["train_proxy"]["cost_when_built"] == cost
    assert in_plan["train_proxy"]["estimate"]["pflops"] == pytest.approx(cost["estimated_pflops"], rel=1e-3)
    assert provenance["cost"]["train_proxy"] == {"seconds": told["provenance"]["seconds"], **cost}
    extracted = in_plan["extract:demo@v1"]
    assert extracted["estimate"]["pflops"] == pytest.approx(extracted["cost_when_built"]["estimated_pflops"], rel=1e-3)
    assert "train_target:subset/0" not in provenance["cost"]  # trained later
    assert in_report["train_target:subset/0"]["estimated_pflops"] > 0


def test_second_run_builds_nothing(finished: World, tmp_path: Path) -> None:
    world = finished.copy(tmp_path / "world")
    again = world.run()
    assert {stage["status"] for stage in again["stages"]} == {"hit"}
    assert again["selection_id"] == json.loads(finished.call("show", "--json").stdout)["selection_id"]
    assert again["report"] is not None


def test_another_budget_builds_nothing_before_publish(finished: World, tmp_path: Path) -> None:
    world = finished.copy(tmp_path / "world")
    other = world.run("--budget", "25", "--set", "comparison=null")
    built = [stage["stage"] for stage in other["stages"] if stage["status"] == "built"]
    assert built == ["publish:subset", "report"]
    assert other["num_examples"] == 25
    channel = sorted((world.store / "channels/latest").iterdir())
    assert json.loads(channel[-1].read_bytes())["selection"] == other["selection_id"]
    assert len(channel) == 2


def test_same_request_elsewhere_gives_the_same_bytes(landed: World, finished: World, tmp_path: Path) -> None:
    """Another folder, another scratch, one worker and not two: none of it enters a byte."""
    world = landed.copy(tmp_path / "elsewhere")
    world.run("--run-id", "tested", "--set", "comparison=null")
    assert world.published() == finished.published()


def test_random_and_full_need_no_proxy(landed: World, tmp_path: Path) -> None:
    world = landed.copy(tmp_path / "world")
    result = world.run("--method", "random", "--set", "comparison=null")
    assert [stage["stage"] for stage in result["stages"]][1:] == ["pool", "select:subset", "publish:subset", "report"]
    full = world.run("--method", "full", "--budget", "100%", "--set", "comparison=null")
    assert full["num_examples"] > result["num_examples"]


def test_verify_finds_an_edited_file(finished: World, tmp_path: Path) -> None:
    world = finished.copy(tmp_path / "world")
    (selection,) = (world.store / "selections").iterdir()
    assert world.call("verify", selection.name).returncode == 0
    subset = selection / "subset.parquet"
    data = bytearray(subset.read_bytes())
    data[len(data) // 2] ^= 1
    subset.write_bytes(data)
    refused = world.call("verify", selection.name)
    assert refused.returncode == 64
    assert "subset.parquet is not what the manifest says" in refused.stderr


def test_plan_says_what_would_be_built(landed: World, finished: World) -> None:
    states = {
        name: [
            stage["state"]
            for stage in json.loads(world.call("plan", "--recipe", str(world.recipe), "--json").stdout)["stages"]
        ]
        for name, world in {"landed": landed, "finished": finished}.items()
    }
    assert set(states["finished"]) == {"HIT"}
    assert set(states["landed"]) == {"MISS", "UNKNOWN"}
    assert not (landed.store / "runs").exists()


def test_selection_is_derived_again_from_its_signals(finished: World) -> None:
    (selection,) = (finished.store / "selections").iterdir()
    done = finished.call("verify", selection.name, "--recompute", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["recomputed"] == ["pool", "cluster", "select:subset", "publish:subset"]
