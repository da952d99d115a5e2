"""The run that landed data asks for: the same for the same data and words, and only until it was started."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.small_world import World, land_version
from xmas_job.commands.landed import run_for_landed
from xmas_job.commands.resolve import RUN_ID_PATTERN, start_run
from xmas_job.errors import NothingToDoError, UsageError

WORDS = {"recipe": "r.yaml", "budget": "15%"}


def look(world: World, words: dict[str, Any] | None = None, **config: Any) -> dict[str, Any]:
    return dict(run_for_landed(world.environment, world.config(**config), words or WORDS))


def test_newest_whole_version_is_asked_for_by_one_id(world: World) -> None:
    first = look(world)
    assert first["datasets"] == ["demo@v1"]
    assert RUN_ID_PATTERN.fullmatch(first["run"])
    land_version(world, "demo", "v2", is_whole=False)
    assert look(world) == first
    world.store.put("landing/demo/v2/_SUCCESS", b"")
    second = look(world)
    assert second["datasets"] == ["demo@v2"]
    assert second["run"] != first["run"]
    assert look(world) == second


def test_older_version_that_lands_late_asks_for_nothing_new(world: World) -> None:
    land_version(world, "demo", "v10")
    newest = look(world)
    land_version(world, "demo", "v9")
    assert look(world) == newest
    assert newest["datasets"] == ["demo@v10"]


def test_every_dataset_of_the_recipe_counts(world: World) -> None:
    land_version(world, "more", "v1")
    both = look(world, datasets=["demo", "more"])
    land_version(world, "more", "v2")
    again = look(world, datasets=["demo", "more"])
    assert (both["datasets"], again["datasets"]) == (["demo@v1", "more@v1"], ["demo@v1", "more@v2"])
    assert both["run"] != again["run"]


def test_other_words_are_another_request(world: World) -> None:
    assert look(world)["run"] != look(world, {**WORDS, "budget": "20%"})["run"]


def test_setting_of_the_recipe_that_nobody_named_is_no_part_of_the_request(world: World) -> None:
    """Else a new version of the package, with one more default, would run everything again."""
    assert look(world)["run"] == look(world, cluster={"num_clusters": 7})["run"]


def test_started_run_is_not_asked_for_again_until_something_lands(world: World) -> None:
    first = look(world)
    start_run(world.config(datasets=first["datasets"]), world.store, first["run"])
    with pytest.raises(NothingToDoError, match=rf"run {first['run']} was started for demo@v1"):
        look(world)
    land_version(world, "demo", "v2")
    assert look(world)["datasets"] == ["demo@v2"]


def test_dataset_that_has_not_landed_is_told(world: World) -> None:
    with pytest.raises(UsageError, match="dataset 'absent' has no landed version"):
        look(world, datasets=["absent"])


def test_command_prints_the_run_and_then_has_nothing_to_do(world: World) -> None:
    arguments = ("landed", "--recipe", world.recipe(), "--budget", "50%", "--set", "select.seed=1")
    done = world.call(*arguments)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["datasets"] == ["demo@v1"]
    start_run(world.config(), world.store, found["run"])
    again = world.call(*arguments)
    assert again.returncode == NothingToDoError.exit_code
