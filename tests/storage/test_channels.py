from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.processes import Child
from xmas_job.errors import BadDataError, UsageError
from xmas_job.storage import channels
from xmas_job.storage.roots import open_store
from xmas_job.storage.store import Store


def move(store: Store, selection: str, channel: str = "latest") -> bool:
    return channels.move(store, channel, selection=selection, run=f"run of {selection}", when="2026-01-01")


def test_channel_without_a_move_points_nowhere(store: Store) -> None:
    assert channels.current(store, "latest") is None


def test_channel_points_at_its_newest_move_and_keeps_its_history(store: Store) -> None:
    runs = (("a", "run of a"), ("b", "run of b"), ("a", "second run of a"))
    moves = [channels.move(store, "latest", selection=name, run=run, when="2026-01-01") for name, run in runs]
    assert moves == [True, True, True]
    current = channels.current(store, "latest")
    assert current is not None
    assert (current.selection, current.run, current.when) == ("a", "second run of a", "2026-01-01")
    entries = list(store.list("channels/latest"))
    assert [entry.key for entry in entries] == [f"channels/latest/{number:012d}.json" for number in (1, 2, 3)]
    assert [json.loads(store.read(entry.key))["selection"] for entry in entries] == ["a", "b", "a"]


def test_move_to_the_same_selection_is_no_move(store: Store) -> None:
    assert move(store, "a") is True
    assert move(store, "a") is False
    assert len(list(store.list("channels"))) == 1


def test_channels_are_apart(store: Store) -> None:
    move(store, "a")
    move(store, "b", "nightly")
    current = channels.current(store, "latest")
    assert current is not None
    assert current.selection == "a"


def test_user_without_a_name_is_named_by_number(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container often runs as a number that no passwd file knows."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 4_000_123)
    move(store, "a")
    current = channels.current(store, "latest")
    assert current is not None
    assert current.who == "4000123"


def _move_ten_times(uri: str, name: str) -> int:
    return sum(move(open_store(uri), f"{name}{number}") for number in range(10))


def test_movers_that_race_lose_no_move(store: Store, start: Callable[..., Child]) -> None:
    children = [start(_move_ten_times, store.uri, name) for name in "abcd"]
    assert [child.result() for child in children] == [10] * 4
    moved = [json.loads(store.read(entry.key))["selection"] for entry in store.list("channels/latest")]
    assert len(moved) == 40
    for name in "abcd":
        assert [selection for selection in moved if selection[0] == name] == [f"{name}{number}" for number in range(10)]


def test_run_that_is_repeated_late_does_not_take_the_channel_back(store: Store) -> None:
    for run, selection in (("early", "a"), ("late", "b"), ("early", "a")):
        channels.move(store, "latest", selection=selection, run=run, when="2026-01-01")
    now = channels.current(store, "latest")
    assert now is not None
    assert (now.selection, now.run) == ("b", "late")


def back(store: Store) -> str:
    return channels.rollback(store, "latest", when="2026-01-02", why="worse").selection


def test_rollback_goes_to_the_selection_before_and_repeated_one_more(store: Store) -> None:
    for name in "abbc":
        channels.promote(store, "latest", selection=name, when="2026-01-01", why="")
    assert len(channels.history(store, "latest")) == 3, "b to b is no move"
    assert [back(store), back(store)] == ["b", "a"]
    with pytest.raises(UsageError, match="there is nothing before that"):
        back(store)
    assert [past.selection for past in channels.history(store, "latest")] == ["a", "b", "c", "b", "a"]


def test_rollback_after_a_later_move_goes_back_to_what_counted_then(store: Store) -> None:
    for name in "ab":
        channels.promote(store, "latest", selection=name, when="2026-01-01", why="")
    assert back(store) == "a"
    channels.promote(store, "latest", selection="c", when="2026-01-03", why="")
    assert back(store) == "a"


def test_channel_that_never_moved_does_not_roll_back(store: Store) -> None:
    with pytest.raises(UsageError, match="has never moved"):
        back(store)


def test_run_may_move_the_channel_after_a_rollback_but_not_the_one_taken_back(store: Store) -> None:
    move(store, "a")
    move(store, "b")
    assert back(store) == "a"
    assert move(store, "b") is False
    assert move(store, "c") is True


def test_move_that_is_gone_from_the_history_is_told(store: Store) -> None:
    for selection in ("one", "two"):
        channels.promote(store, "latest", selection=selection, when="", why="")
    store.delete("channels/latest/000000000001.json")
    with pytest.raises(BadDataError, match=r"channels/latest/000000000001\.json is gone"):
        channels.rollback(store, "latest", when="", why="")
