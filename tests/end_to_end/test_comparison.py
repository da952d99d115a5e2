"""A comparison with real trainings: killed with SIGKILL in its midst and given again; the report by hand."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.end_to_end.line import DEADLINE_SECONDS, World
from tests.processes import wait_until

pytestmark = pytest.mark.end_to_end

BACKWARDS, EVERY_OTHER = "tests.their_methods:Backwards", "tests.their_methods:EveryOther"
COMMAND = ("--methods", f"{BACKWARDS},{EVERY_OTHER},full", "--budgets", "20%", "--seeds", "1", "--json")
VARIABLES = {"PYTHONPATH": str(Path(__file__).parents[2])}


def compare(world: World) -> dict[str, Any]:
    process = world.start("compare", "--recipe", str(world.recipe), *COMMAND, variables=VARIABLES)
    stdout, stderr = process.communicate(timeout=2 * DEADLINE_SECONDS)
    assert process.returncode == 0, stderr[-3000:]
    result: dict[str, Any] = json.loads(stdout)
    return result


def correct(world: World, run_id: str, training: str) -> list[bool]:
    """Right or wrong on each held-out example, as the run's own files say."""
    name = training.replace("/", ".")
    outcome = json.loads((world.store / f"runs/{run_id}/stages/evaluate.{name}.json").read_bytes())
    (predictions,) = (world.store / outcome["address"]).glob("attempts/*/predictions.parquet")
    found: list[bool] = pq.read_table(predictions)["correct"].to_pylist()
    return found


def test_killed_comparison_goes_on_and_its_repetition_builds_nothing(landed: World, tmp_path: Path) -> None:
    world = landed.copy(tmp_path / "world")
    command = ("compare", "--recipe", str(world.recipe), *COMMAND)
    process = world.start(*command, variables=VARIABLES)
    trained = world.store / "artifacts/train_target"
    wait_until(lambda: any(trained.glob("*/lease/*.json")), "the first training to begin")
    process.send_signal(signal.SIGKILL)
    process.communicate()  # to the end of its pipes, which its children hold too
    assert process.returncode == -signal.SIGKILL
    assert not list(world.store.glob("comparisons/*/report"))

    result = compare(world)
    assert list((world.folder / "scratch").iterdir()) == []
    attempts = {path.parent.parent.name for path in trained.glob("*/attempts/*")}
    assert len(attempts) == len(list(trained.glob("*/record.json"))) == 4  # two methods, random, full
    again = compare(world)
    assert again == result
    assert len(list(trained.glob("*/attempts/*"))) <= 4 + 2  # at most two were at work when it was killed

    rows = {row["method"]: row for row in result["results"]}
    (random, full) = result["references"]
    run_id = rows[BACKWARDS]["run_id"]
    mine, theirs = correct(world, run_id, "subset/0"), correct(world, run_id, "random.0/0")
    assert rows[BACKWARDS]["mean"] == pytest.approx(sum(mine) / len(mine))
    assert rows[BACKWARDS]["difference"]["mean"] == pytest.approx((sum(mine) - sum(theirs)) / len(mine))
    assert rows[BACKWARDS]["difference"]["num_examples"] == len(mine)
    assert (random["method"], full["method"], full["budget"]) == ("random", "full", "")
    assert random["mean"] == pytest.approx(sum(theirs) / len(theirs))
    assert result["num_comparisons"] == 2
    (overlap,) = result["overlaps"]
    assert overlap["methods"] == [BACKWARDS, EVERY_OTHER, "random (mean)"]
    report = json.loads(next(world.store.glob("comparisons/*/report/report.json")).read_bytes())
    assert report["families"][0]["rows"][0]["method"] == BACKWARDS
    assert report["costs"]["rows"][0]["groups"]["targets"] > 0
