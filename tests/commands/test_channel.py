"""Moving a channel by hand, and fetching what it points at."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.small_world import World
from xmas_job.commands import channel
from xmas_job.commands.verify import verify_selection
from xmas_job.errors import BadDataError, UsageError
from xmas_job.storage import channels


@pytest.fixture
def own(finished: World, tmp_path: Path) -> World:
    shutil.copytree(finished.folder, tmp_path / "world")
    return World(tmp_path / "world")


def test_promoted_channel_is_shown_with_its_reason(own: World, first_result: dict[str, Any]) -> None:
    selection = first_result["selection_id"]
    channel.promote(own.environment, selection, "production", "passed review")
    shown: Any = channel.show(own.environment, "production")
    assert shown["selection"] == selection
    (move,) = shown["moves"]
    assert (move["number"], move["why"], move["run"]) == (1, "passed review", "")
    assert move["who"]
    assert move["when"]


def test_damaged_selection_is_not_promoted(own: World, first_result: dict[str, Any]) -> None:
    selection = first_result["selection_id"]
    (own.folder / "store/selections" / selection / "subset.parquet").write_bytes(b"")
    with pytest.raises(BadDataError):
        channel.promote(own.environment, selection, "production", "")
    assert channels.current(own.store, "production") is None


@pytest.mark.parametrize("name", ["Production", "", "a/b", "../a"])
def test_bad_channel_name_is_refused(own: World, first_result: dict[str, Any], name: str) -> None:
    with pytest.raises(UsageError, match="is no name of a channel"):
        channel.promote(own.environment, first_result["selection_id"], name, "")


@pytest.mark.parametrize("name", ["../latest", "/latest", "latest/", ""])
def test_name_that_is_no_channels_is_refused_wherever_one_is_asked_for(own: World, name: str, tmp_path: Path) -> None:
    for ask in (channel.show, lambda *found: channel.rollback(*found, "")):
        with pytest.raises(UsageError, match="is no name of a channel"):
            ask(own.environment, name)
    with pytest.raises(UsageError, match="there is no selection or channel"):
        channel.pull(own.environment, name, tmp_path / "pulled")


@pytest.mark.parametrize("form", ["{}/", "./{}"])
def test_selection_is_promoted_by_its_id_alone(own: World, first_result: dict[str, Any], form: str) -> None:
    """A clearing keeps what a channel names, letter by letter."""
    with pytest.raises(UsageError, match="is no id of a selection"):
        channel.promote(own.environment, form.format(first_result["selection_id"]), "prod", "")
    assert channels.current(own.store, "prod") is None


def test_rollback_to_a_selection_that_is_gone_moves_nothing(own: World) -> None:
    channels.promote(own.store, "latest", selection="0" * 32, when="now", why="")
    channels.promote(own.store, "latest", selection="1" * 32, when="now", why="")
    with pytest.raises(UsageError, match="there is no selection"):
        channel.rollback(own.environment, "latest", "")
    assert len(channels.history(own.store, "latest")) == 3


def test_rollback_says_from_where_to_where(own: World, first_result: dict[str, Any]) -> None:
    channels.promote(own.store, "latest", selection="1" * 32, when="now", why="")
    result = channel.rollback(own.environment, "latest", "it was worse")
    assert result == {"channel": "latest", "selection": first_result["selection_id"], "before": "1" * 32}


@pytest.mark.parametrize("by_channel", [True, False])
def test_pulled_selection_holds_elsewhere(
    own: World, first_result: dict[str, Any], tmp_path: Path, by_channel: bool
) -> None:
    name = "latest" if by_channel else first_result["selection_id"]
    result = channel.pull(own.environment, name, tmp_path / "pulled")
    assert result["selection"] == first_result["selection_id"]
    shutil.rmtree(own.folder / "store")
    assert verify_selection(own.environment, str(tmp_path / "pulled"))["num_files"] == 3


def test_pull_of_damaged_files_leaves_no_manifest(own: World, first_result: dict[str, Any], tmp_path: Path) -> None:
    path = own.folder / "store/selections" / first_result["selection_id"] / "exports/llava.json"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(BadDataError, match=r"exports/llava\.json is not what the manifest says"):
        channel.pull(own.environment, "latest", tmp_path / "pulled")
    assert not (tmp_path / "pulled/manifest.json").exists()


def test_pull_into_a_folder_with_other_things_is_refused(own: World, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").touch()
    with pytest.raises(UsageError, match="is not empty"):
        channel.pull(own.environment, "latest", tmp_path / "mine")


def test_channel_that_never_moved_names_those_that_did(own: World) -> None:
    with pytest.raises(UsageError) as caught:
        channel.show(own.environment, "nightly")
    assert caught.value.remedy == "Channels: latest."
