"""Channels: named pointers to a selection. A new number is a move; the history stays.

Owns the only thing in the store that moves.
"""

from __future__ import annotations

import getpass
import os
from dataclasses import asdict, dataclass

from xmas_job.errors import BadDataError, UsageError
from xmas_job.fingerprint import canonical_json
from xmas_job.storage.documents import newest_number, read_document
from xmas_job.storage.store import Store


@dataclass(frozen=True, slots=True)
class Move:
    """One move of a channel."""

    selection: str
    run: str
    """The run that moved it; "" for a person."""
    when: str
    who: str
    why: str = ""
    restores: int | None = None
    """For a rollback: the number of the move that counts again."""


def current(store: Store, channel: str) -> Move | None:
    """Where the channel points now."""
    newest = _newest(store, channel)
    return _read(store, channel, newest) if newest else None


def history(store: Store, channel: str) -> list[Move]:
    """All moves, the newest first."""
    return [_read(store, channel, number) for number in range(_newest(store, channel), 0, -1)]


def move(store: Store, channel: str, *, selection: str, run: str, when: str) -> bool:
    """Point the channel at `selection`; False if it does so already, or if this run has moved it before.

    A run moves a channel once: repeated or late, it must not take back what came after it. A lost race looks again.
    """
    while True:
        past = history(store, channel)
        if past and (past[0].selection == selection or run in {earlier.run for earlier in past}):
            return False
        if _append(store, channel, len(past) + 1, Move(selection, run, when, _who())):
            return True


def promote(store: Store, channel: str, *, selection: str, when: str, why: str) -> Move:
    """A person points the channel at `selection`. A lost race looks again; nothing happens if it points there."""
    while True:
        past = history(store, channel)
        if past and past[0].selection == selection:
            return past[0]
        made = Move(selection, "", when, _who(), why)
        if _append(store, channel, len(past) + 1, made):
            return made


def rollback(store: Store, channel: str, *, when: str, why: str) -> Move:
    """A person points the channel at what it pointed at before; repeated, it goes back one more.

    Raises:
        UsageError: if there is nothing before.
    """
    while True:
        past = history(store, channel)
        number, found = _before(channel, past)
        made = Move(found.selection, "", when, _who(), why, restores=number)
        if _append(store, channel, len(past) + 1, made):
            return made


def previous(store: Store, channel: str) -> Move:
    """What a rollback would make count again. Raises UsageError, if there is nothing before."""
    return _before(channel, history(store, channel))[1]


def _before(channel: str, past: list[Move]) -> tuple[int, Move]:
    """Number and move that counted before the newest; `past` has the newest first."""
    if not past:
        raise UsageError(f"channel {channel!r} has never moved.", "See the channels/ folder of the store.")
    counts = past[0].restores or len(past)
    for number in range(counts - 1, 0, -1):
        earlier = past[len(past) - number]
        if earlier.selection != past[0].selection:
            return number, earlier
    raise UsageError(
        f"channel {channel!r} points at {past[0].selection}, and there is nothing before that.",
        "Point it elsewhere: xmas-job promote SELECTION --to CHANNEL",
    )


def _append(store: Store, channel: str, number: int, made: Move) -> bool:
    return store.create(_key(channel, number), canonical_json(asdict(made)))


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())  # in a container, a number may have no name


def _key(channel: str, number: int) -> str:
    return f"channels/{channel}/{number:012d}.json"


def _newest(store: Store, channel: str) -> int:
    return newest_number(store, f"channels/{channel}")


def _read(store: Store, channel: str, number: int) -> Move:
    remedy = f"Restore it from a copy; or delete the folder channels/{channel} and promote a selection to it again."
    key = _key(channel, number)
    try:
        return read_document(store, key, lambda raw: Move(**raw), remedy=remedy)
    except FileNotFoundError:
        raise BadDataError(f"{store.uri}/{key} is gone, though the channel has later moves.", remedy) from None
