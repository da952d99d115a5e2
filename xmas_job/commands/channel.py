"""Channels by hand: show, promote, roll back; and pulling the selection a channel points at."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

from xmas_job.commands.presence import wait_for_clearing
from xmas_job.environment import Environment
from xmas_job.errors import BadDataError, UsageError
from xmas_job.fingerprint import Json
from xmas_job.storage import channels
from xmas_job.storage.journal import utc_now
from xmas_job.storage.manifest import MANIFEST, parse_manifest, verify_files
from xmas_job.storage.roots import open_store
from xmas_job.storage.store import Store

CHANNEL_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


def show(environment: Environment, channel: str) -> dict[str, Json]:
    """Where the channel points, and all its moves, the newest first.

    Raises:
        UsageError: if it has never moved, or the name is none of a channel.
    """
    store = open_store(environment.store_root)
    _check_name(channel)
    past = channels.history(store, channel)
    if not past:
        raise UsageError(f"channel {channel!r} has never moved.", _known(store))
    moves: list[Json] = [{"number": len(past) - place, **asdict(move)} for place, move in enumerate(past)]
    return {"channel": channel, "selection": past[0].selection, "moves": moves}


def promote(environment: Environment, selection: str, channel: str, why: str) -> dict[str, Json]:
    """Point the channel at a selection that holds.

    Raises:
        UsageError: if there is no such selection, or the name is none of a channel.
        BadDataError: if its files are not what its manifest says; the channel has not moved then.
    """
    store = open_store(environment.store_root)
    _check_name(channel)
    _check(store, selection)
    before = channels.current(store, channel)
    move = channels.promote(store, channel, selection=selection, when=utc_now(), why=why)
    _check_after(store, channel, selection)
    return {"channel": channel, "selection": move.selection, "before": before.selection if before else None}


def rollback(environment: Environment, channel: str, why: str) -> dict[str, Json]:
    """Point the channel at what it pointed at before, by a new number.

    Raises:
        UsageError: if there is nothing before, or the name is none of a channel.
        BadDataError: if that selection is gone or damaged.
    """
    store = open_store(environment.store_root)
    _check_name(channel)
    before = channels.current(store, channel)
    _check(store, channels.previous(store, channel).selection)
    move = channels.rollback(store, channel, when=utc_now(), why=why)
    _check_after(store, channel, move.selection)
    return {"channel": channel, "selection": move.selection, "before": before.selection if before else None}


def pull(environment: Environment, name: str, folder: Path) -> dict[str, Json]:
    """Fetch a selection, by its id or by the channel that points at it, and check every byte.

    The manifest is written last, so a folder that has one is whole.

    Raises:
        UsageError: if there is nothing of that name, or the folder holds something else.
        BadDataError: if the files are not what the manifest says.
    """
    store = open_store(environment.store_root)
    move = channels.current(store, name) if CHANNEL_NAME.fullmatch(name) else None
    selection = move.selection if move else name
    data = _read_manifest(store, selection)
    if folder.is_dir() and any(folder.iterdir()) and not _holds(folder, data):
        raise UsageError(f"{folder} is not empty.", "Give a folder that is empty or not there.")
    manifest = parse_manifest(data, where=f"{store.uri}/selections/{selection}/{MANIFEST}")

    def fetch(path: str) -> bytes:
        fetched = store.read(f"selections/{selection}/{path}")
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(fetched)
        return fetched

    num_files = verify_files(manifest, fetch, where=f"{store.uri}/selections/{selection}")
    (folder / MANIFEST).write_bytes(data)
    return {"selection": selection, "folder": str(folder), "num_files": num_files}


def _holds(folder: Path, manifest: bytes) -> bool:
    return (folder / MANIFEST).is_file() and (folder / MANIFEST).read_bytes() == manifest


def _read_manifest(store: Store, selection: str) -> bytes:
    try:
        return store.read(f"selections/{selection}/{MANIFEST}")
    except (FileNotFoundError, ValueError):
        raise UsageError(f"there is no selection or channel {selection!r} in {store.uri}.", _known(store)) from None


def _check_name(channel: str) -> None:
    if not CHANNEL_NAME.fullmatch(channel):
        raise UsageError(f"{channel!r} is no name of a channel.", "Use small letters, digits, - and _.")


def _check(store: Store, selection: str) -> None:
    where = f"{store.uri}/selections/{selection}"
    manifest = parse_manifest(_read_manifest(store, selection), where=where)
    if manifest.selection_id != selection:  # "id/" finds the same folder, and no clearing would know it again
        raise UsageError(f"{selection!r} is no id of a selection.", f"Its manifest says {manifest.selection_id}.")
    verify_files(manifest, lambda path: store.read(f"selections/{selection}/{path}"), where=where)


def _check_after(store: Store, channel: str, selection: str) -> None:
    """A clearing of the store that did not see the move yet may take the selection away: wait for it, look again."""
    wait_for_clearing(store)
    if not store.exists(f"selections/{selection}/{MANIFEST}"):
        raise BadDataError(
            f"selection {selection} was cleared away just when channel {channel!r} moved to it.",
            f"Take it back: xmas-job rollback {channel}",
        )


def _known(store: Store) -> str:
    names = ", ".join(store.folders("channels"))
    return f"Channels: {names}." if names else "No channel has moved yet."
