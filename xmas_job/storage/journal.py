"""What a run leaves beside its artifacts: its outcomes, its failures, what was told of it, when it was last at work.

Owns the keys below runs/<run_id>/ and alerts/<run_id>/. Decides nothing: artifacts exist by their records alone.
"""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from xmas_job.errors import NothingToDoError, XmasError
from xmas_job.fingerprint import Json, canonical_json
from xmas_job.logs import get_logger
from xmas_job.storage.documents import read_document
from xmas_job.storage.owner import this_process
from xmas_job.storage.store import Store

logger = get_logger(__name__)

OUTCOME = ("stage", "status", "seconds", "digest", "address")
FAILURE = ("stage", "partition", "error", "remedy", "exit_code", "when", "host", "retry")


def utc_now() -> str:
    """The time as an ISO string in seconds, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def run_key(run_id: str) -> str:
    """Store key of what the run resolved to, written once."""
    return f"runs/{run_id}/run.json"


def recipe_key(run_id: str) -> str:
    """Store key of the run's whole configuration, as a recipe that can be run again."""
    return f"runs/{run_id}/recipe.yaml"


def outcome_key(run_id: str, node_id: str) -> str:
    """Store key of what became of a node in a run."""
    return f"runs/{run_id}/stages/{_name(node_id)}.json"


def rerun_command(store: Store, run_id: str) -> str:
    """The command that runs the same again, on any machine that sees the store."""
    recipe = unquote(f"{store.uri}/{recipe_key(run_id)}".removeprefix("file://"))
    return f"xmas-job run --recipe {shlex.quote(recipe)}"


def alerts_folder(run_id: str) -> str:
    """Store key of the folder of what was told of a run. Apart from the run's own: a run may fail before it has one."""
    return f"alerts/{run_id}"


def alert_key(run_id: str, rule: str, node_id: str) -> str:
    """Store key that is there once the rule has told of this stage of this run."""
    return f"{alerts_folder(run_id)}/{rule}.{_name(node_id)}.json"


def presence_key(run_id: str) -> str:
    """Store key of a file that every process of the run writes when it starts; its age is how long the run rests."""
    return f"runs/{run_id}/presence.json"


def outcomes(store: Store, run_id: str) -> list[dict[str, Any]]:
    """What became of the run's stages so far."""
    return [read_outcome(store, entry.key) for entry in store.list(f"runs/{run_id}/stages")]


def read_outcome(store: Store, key: str) -> dict[str, Any]:
    """What became of one stage. Raises FileNotFoundError; BadDataError, if it is damaged."""
    return read_document(store, key, _whole(OUTCOME), remedy="Delete that file and give the run's command again.")


def failures(store: Store, run_id: str) -> list[dict[str, Any]]:
    """What failed in the run, oldest first."""
    whole, remedy = _whole(FAILURE), "Delete that file: it is a note, and nothing depends on it."
    return [read_document(store, entry.key, whole, remedy=remedy) for entry in store.list(f"runs/{run_id}/failures")]


def _whole(names: tuple[str, ...]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def check(raw: dict[str, Any]) -> dict[str, Any]:
        for name in names:
            raw[name]
        return raw

    return check


@contextmanager
def noted_failures(store: Store, run_id: str, node_id: str, partition: int | None) -> Iterator[None]:
    """Write down in the run why the block failed, for whoever looks on from elsewhere; the error goes on."""
    try:
        yield
    except NothingToDoError:
        raise
    except Exception as error:
        _note(store, run_id, node_id, partition, error)
        raise


def _note(store: Store, run_id: str, node_id: str, partition: int | None, error: Exception) -> None:
    command = f"xmas-job stage {node_id} --run {run_id}"
    content: dict[str, Json] = {
        "stage": node_id,
        "partition": partition,
        "error": error.message if isinstance(error, XmasError) else f"{type(error).__name__}: {error}",
        "remedy": error.remedy if isinstance(error, XmasError) else "",
        "exit_code": error.exit_code if isinstance(error, XmasError) else 1,
        "when": utc_now(),
        "host": this_process().host,
        "retry": command if partition is None else f"{command} --partition {partition}",
    }
    # Named by time and chance: two workers of a stage may fail at once, and each says why.
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{_name(node_id)}-{secrets.token_hex(2)}"
    try:
        store.create(f"runs/{run_id}/failures/{name}.json", canonical_json(content))
    except (OSError, XmasError) as note_error:
        # A full disk is often the very failure; the error itself is what the caller has to see.
        logger.warning("failure not written down", error=str(note_error))


def _name(node_id: str) -> str:
    return node_id.replace(":", ".").replace("/", ".")
