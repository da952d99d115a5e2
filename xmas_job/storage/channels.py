"""Channels: named pointers to a selection. A new number is a move; the history stays.

Owns the only thing in the store that moves.
"""

from __future__ import annotations

import getpass
import json
import os
from dataclasses import asdict, dataclass
from typing import Any

from xmas_job.fingerprint import canonical_json
from xmas_job.storage.store import Store


@dataclass(frozen=True, slots=True)
class Move:
    """One move of a channel."""

    selection: str
    run: str
    when: str
    who: str


def current(store: Store, channel: str) -> Move | None:
    """Where the channel points now."""
    newest = _newest(store, channel)
    return _read(store, channel, newest) if newest else None


def move(store: Store, channel: str, *, selection: str, run: str, when: str) -> bool:
    """Point the channel at `selection`; False if it does so already, or if this run has moved it before.

    A run moves a channel once: repeated or late, it must not take back what came after it. A lost race looks again.
    """
    while True:
        newest = _newest(store, channel)
        history = [_read(store, channel, number) for number in range(newest, 0, -1)]
        if history and (history[0].selection == selection or run in {past.run for past in history}):
            return False
        content = asdict(Move(selection, run, when, _who()))
        if store.create(_key(channel, newest + 1), canonical_json(content)):
            return True


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())  # in a container, a number may have no name


def _key(channel: str, number: int) -> str:
    return f"channels/{channel}/{number:012d}.json"


def _newest(store: Store, channel: str) -> int:
    numbers = [int(entry.key.rpartition("/")[2].removesuffix(".json")) for entry in store.list(f"channels/{channel}")]
    return max(numbers, default=0)


def _read(store: Store, channel: str, number: int) -> Move:
    raw: dict[str, Any] = json.loads(store.read(_key(channel, number)))
    return Move(**raw)
