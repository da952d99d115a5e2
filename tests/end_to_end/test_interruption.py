"""kill -9 at several points of every stage, then the same command: the same bytes as an undisturbed run."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.line import World
from tests.processes import wait_until

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


def leased(stage: Path) -> bool:
    return any(stage.glob("**/lease/*.json"))


def wrote_a_file(stage: Path) -> bool:
    return any(path.is_file() for path in stage.glob("**/attempts/**/*"))


def wrote_second_checkpoint(stage: Path) -> bool:
    return any(stage.glob("*/attempts/*/checkpoint-0002/*"))


def finished_a_partition(stage: Path) -> bool:
    return any(stage.glob("*/partitions/*.json"))


CASES: list[tuple[str, Callable[[Path], bool]]] = [
    *((stage, leased) for stage in ORDER),
    *((stage, wrote_a_file) for stage in ORDER if stage not in {"train_target", "evaluate"}),
    ("train_proxy", wrote_second_checkpoint),
    ("extract", finished_a_partition),
]


def without(world: World, stage: str) -> None:
    """Take away what this stage and those after it made."""
    for later in ORDER[ORDER.index(stage) :]:
        shutil.rmtree(world.store / "artifacts" / later, ignore_errors=True)
    for folder in ("selections", "channels", "runs/tested/stages", "runs/tested/report"):
        shutil.rmtree(world.store / folder, ignore_errors=True)


def adapters(world: World) -> set[bytes]:
    return {path.read_bytes() for path in world.store.glob("artifacts/train_target/*/attempts/*/adapter/*.safetensors")}


@pytest.mark.parametrize(("stage", "moment"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_killed_stage_ends_with_the_same_bytes(
    finished: World, tmp_path: Path, stage: str, moment: Callable[[Path], bool]
) -> None:
    world = finished.copy(tmp_path / "world")
    without(world, stage)
    process = world.start("stage", NODES.get(stage, stage), "--run", "tested")
    wait_until(lambda: moment(world.store / "artifacts" / stage) or process.poll() is not None, f"{stage} {moment}")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if ORDER.index(stage) < ORDER.index("train_target") or stage == "report":
        world.run("--set", "comparison=null")
    else:
        world.run("--run-id", "tested")
        assert adapters(world) == adapters(finished)
    assert world.published() == finished.published()
    assert list((world.folder / "scratch").iterdir()) == []


def test_killed_run_leaves_no_process_and_goes_on(landed: World, finished: World, tmp_path: Path) -> None:
    world = landed.copy(tmp_path / "world")
    process = world.start("run", "--recipe", str(world.recipe), "--run-id", "tested", "--set", "comparison=null")
    wait_until(lambda: wrote_a_file(world.store / "artifacts/train_proxy"), "the training")
    process.send_signal(signal.SIGKILL)
    # Its children hold the other ends of these pipes: reading to the end waits for all of them to go.
    process.communicate()
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
