"""kill -9 at several points of every stage, then the same command: the same bytes as an undisturbed run."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.line import World
from tests.processes import wait_until

pytestmark = pytest.mark.end_to_end

ORDER = (
    "ingest",
    "pool",
    "train_proxy",
    "extract",
    "cluster",
    "select",
    "publish",
    "train_target",
    "evaluate",
    "report",
)
NODES = {
    "ingest": "ingest:demo@v1",
    "extract": "extract:demo@v1",
    "select": "select:subset",
    "publish": "publish:subset",
    "train_target": "train_target:subset/0",
    "evaluate": "evaluate:subset/0",
}


TRIES = 10  # a stage may end before the kill reaches it
LOG = "stage.jsonl"

Moment = Callable[[World, str], bool]


def artifacts(world: World, stage: str) -> Path:
    return world.store / "artifacts" / stage


def leased(world: World, stage: str) -> bool:
    return any(artifacts(world, stage).glob("**/lease/*.json"))


def wrote_a_file(world: World, stage: str) -> bool:
    return any(path.is_file() for path in artifacts(world, stage).glob("**/attempts/**/*"))


def wrote_second_checkpoint(world: World, stage: str) -> bool:
    return any(artifacts(world, stage).glob("*/attempts/*/checkpoint-0002/*"))


def finished_a_partition(world: World, stage: str) -> bool:
    return any(artifacts(world, stage).glob("*/partitions/*.json"))


def made_progress(world: World, _stage: str) -> bool:
    return '"event": "progress"' in (world.folder / LOG).read_text()


CASES: list[tuple[str, Moment]] = [
    *((stage, leased) for stage in ORDER),
    *((stage, wrote_a_file) for stage in ORDER if stage not in {"train_target", "evaluate"}),
    ("train_proxy", wrote_second_checkpoint),
    ("extract", finished_a_partition),
    *((stage, made_progress) for stage in ("ingest", "train_proxy", "extract", "train_target", "evaluate")),
]


def without(world: World, stage: str) -> None:
    """Take away what this stage made, and what the run shows. The stages after it stay: they are found again only if
    this one's bytes are what they were."""
    shutil.rmtree(artifacts(world, stage), ignore_errors=True)
    for folder in ("selections", "channels", "runs/tested/stages", "runs/tested/report"):
        shutil.rmtree(world.store / folder, ignore_errors=True)


def digests(world: World, stage: str) -> set[str]:
    """Of what the stage's artifacts hold."""
    return {json.loads(path.read_bytes())["digest"] for path in artifacts(world, stage).glob("*/record.json")}


def kill_at(world: World, stage: str, moment: Moment) -> int:
    """Start a stage that has made nothing yet and kill it at the moment; the exit status tells which was first."""
    without(world, stage)
    with (world.folder / LOG).open("w") as log:
        command = ("stage", NODES.get(stage, stage), "--run", "tested")
        process = world.start(*command, variables={"XMAS_PROGRESS_SECONDS": "0"}, stderr=log)
        wait_until(lambda: moment(world, stage) or process.poll() is not None, f"{stage} {moment}")
        process.send_signal(signal.SIGKILL)
        process.communicate()
    if process.returncode != -signal.SIGKILL:
        assert process.returncode == 0, (world.folder / LOG).read_text()[-3000:]
    return process.returncode


@pytest.mark.parametrize(("stage", "moment"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_killed_stage_ends_with_the_same_bytes(finished: World, tmp_path: Path, stage: str, moment: Moment) -> None:
    world = finished.copy(tmp_path / "world")
    assert any(kill_at(world, stage, moment) == -signal.SIGKILL for _ in range(TRIES)), "it ended before every kill"
    result = world.run("--run-id", "tested")
    assert digests(world, stage) == digests(finished, stage) != set()
    built = {line["stage"].partition(":")[0] for line in result["stages"] if line["status"] == "built"}
    assert built <= {stage}, "the stages after it were built from other bytes"
    assert world.published() == finished.published()
    assert list((world.folder / "scratch").iterdir()) == []


def test_killed_run_leaves_no_process_and_goes_on(landed: World, finished: World, tmp_path: Path) -> None:
    world = landed.copy(tmp_path / "world")
    process = world.start("run", "--recipe", str(world.recipe), "--run-id", "tested", "--set", "comparison=null")
    wait_until(lambda: wrote_a_file(world, "train_proxy"), "the training")
    process.send_signal(signal.SIGKILL)
    # Its children hold the other ends of these pipes: reading to the end waits for all of them to go.
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    world.run("--run-id", "tested", "--set", "comparison=null")
    assert world.published() == finished.published()


def test_two_runs_of_the_same_request_build_everything_once(landed: World, finished: World, tmp_path: Path) -> None:
    world = landed.copy(tmp_path / "world")
    arguments = ("run", "--recipe", str(world.recipe), "--json", "--set", "comparison=null")
    processes = [world.start(*arguments) for _ in range(2)]
    assert [process.communicate() and process.returncode for process in processes] == [0, 0]
    for stage in ORDER[: ORDER.index("train_target")]:
        if stage != "extract":
            attempts = list(world.store.glob(f"artifacts/{stage}/*/attempts/*"))
            assert len(attempts) == len(list(world.store.glob(f"artifacts/{stage}/*/record.json"))), stage
    assert world.published() == finished.published()
