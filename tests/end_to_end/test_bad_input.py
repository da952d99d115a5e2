"""Bad input through the command line: one line with the remedy, the right exit code, nothing half-published."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.disks import small_disk
from tests.end_to_end.line import World


def rewrite_pool(world: World, change: Callable[[list[dict[str, object]]], list[dict[str, object]]]) -> None:
    data = world.store / "landing/demo/v1/data.json"
    data.write_text(json.dumps(change(json.loads(data.read_text()))))


def empty_the_pool(world: World) -> None:
    rewrite_pool(world, lambda _: [])


def break_every_row(world: World) -> None:
    rewrite_pool(world, lambda rows: [{**row, "conversations": []} for row in rows])


def break_half_of_the_rows(world: World) -> None:
    rewrite_pool(world, lambda rows: [{**row, "conversations": []} if i % 2 else row for i, row in enumerate(rows)])


def remove_the_images(world: World) -> None:
    shutil.rmtree(world.store / "landing/demo/v1/images")


def take_back_the_landing(world: World) -> None:
    (world.store / "landing/demo/v1/_SUCCESS").unlink()


def show_one_picture_only(world: World) -> None:
    """Every image row becomes the same picture and the same words, but for the id: all trajectories are equal."""

    def repeat(rows: list[dict[str, object]]) -> list[dict[str, object]]:
        first = next(row for row in rows if isinstance(row.get("image"), str))
        words = ["red", "blue"]
        return [
            {**first, "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": word}]}
            for word in words
        ] * 40

    rewrite_pool(world, repeat)


def nothing(_: World) -> None:
    pass


CASES = [
    (nothing, ["--set", "clster.num_clusters=5"], 2, "unknown key 'clster'", "Did you mean 'cluster'?"),
    (nothing, ["--budget", "0"], 2, "budget '0' selects nothing", "Correct it"),
    (nothing, ["--budget", "101%"], 2, "above the pool", "Correct it"),
    (nothing, ["--budget", "100000"], 2, "budget 100000 is above the pool", "Ask for at most"),
    (nothing, ["--method", "magic"], 2, "unknown method 'magic'; known: clip_score, ", "module:class"),
    (nothing, ["--set", "proxy.model=models/none"], 2, "'models/none' is no model folder", "Give the folder"),
    (nothing, ["--set", "cluster.num_clusters=5000"], 2, "cluster.num_clusters is 5000", "well below"),
    (show_one_picture_only, [], 2, "cluster.num_clusters is 6, but 2 examples have an image", "well below 2"),
    (take_back_the_landing, [], 2, "dataset 'demo' has no landed version", "demo land"),
    (remove_the_images, [], 2, "images is under", "image_roots"),
    (empty_the_pool, [], 64, "has no rows", "Land data"),
    (break_every_row, [], 64, "rows of landing/demo/v1 are bad", "max_quarantine_fraction"),
    (break_half_of_the_rows, [], 64, "no_conversation", "max_quarantine_fraction"),
]


@pytest.mark.parametrize(("breaks", "arguments", "code", "says", "remedy"), CASES)
def test_bad_input_ends_with_one_line_and_its_code(
    landed: World,
    tmp_path: Path,
    breaks: Callable[[World], None],
    arguments: list[str],
    code: int,
    says: str,
    remedy: str,
) -> None:
    world = landed.copy(tmp_path / "world")
    breaks(world)
    done = world.call("run", "--recipe", str(world.recipe), *arguments)
    error = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert done.returncode == code, done.stderr
    assert error[0].startswith("error: ")
    assert says in error[0]
    assert remedy in error[1]
    assert len(error) == 2
    assert "Traceback" not in done.stderr
    assert not (world.store / "selections").exists()
    assert not (world.store / "channels").exists()


def show_equal_pixels(world: World, num_files: int = 8) -> None:
    """The same picture and words in files that differ in a comment: as many examples, all trajectories equal."""
    folder = world.store / "landing/demo/v1"
    rows = []
    for number in range(num_files):
        comment = PngInfo()
        comment.add_text("Comment", str(number))
        Image.new("RGB", (32, 32), "red").save(folder / f"images/equal-{number}.png", pnginfo=comment)
        turns = [{"from": "human", "value": "<image>\nWhat colour?"}, {"from": "gpt", "value": "red"}]
        rows.append({"id": number, "image": f"images/equal-{number}.png", "conversations": turns})
    rewrite_pool(world, lambda _: rows)


def test_more_clusters_than_distinct_trajectories_is_refused(landed: World, tmp_path: Path) -> None:
    """More images than clusters, but too few different ones: known only after extraction."""
    world = landed.copy(tmp_path / "world")
    show_equal_pixels(world)
    settings = (
        "comparison=null",
        "cluster.num_clusters=6",
        "proxy.num_checkpoints=2",
        "proxy.training.global_batch=4",
        "proxy.training.per_device_batch=4",
        "extract.token_budget=1",  # a batch for each example: its place in a batch may change the last bit
    )
    arguments = [argument for setting in settings for argument in ("--set", setting)]
    done = world.call("run", "--recipe", str(world.recipe), *arguments)
    error = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert done.returncode == 2, done.stderr[-3000:]
    says = "error: cluster.num_clusters is 6, but there are only 1 distinct feature rows."
    assert error == [says, "  Set cluster.num_clusters to at most 1."]
    assert len(list(world.store.glob("artifacts/extract/*/record.json"))) == 1
    assert not (world.store / "selections").exists()
    assert not (world.store / "channels").exists()


def test_full_disk_says_so_and_goes_on_once_there_is_room(landed: World, finished: World, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64m") as disk:
        fill_disk_and_make_room(landed, finished, disk)


def fill_disk_and_make_room(landed: World, finished: World, disk: Path) -> None:
    world = landed.copy(disk / "world")
    ballast = disk / "ballast"
    with ballast.open("wb") as stream:
        free = shutil.disk_usage(disk).free - 3 * 2**20  # too little for the proxy's checkpoints
        stream.write(bytes(free))
    arguments = ("run", "--recipe", str(world.recipe), "--run-id", "tested", "--set", "comparison=null")
    full = world.call(*arguments)
    assert full.returncode == 75, full.stderr[-2000:]
    assert "no space left" in full.stderr
    assert "Free some space" in full.stderr
    assert not (world.store / "selections").exists()
    ballast.unlink()
    again = world.call(*arguments)
    assert again.returncode == 0, again.stderr[-2000:]
    assert world.published() == finished.published()
