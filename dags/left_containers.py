"""Containers whose task is gone: of an earlier try, or of a task that was killed in its last try, which nobody follows.

Owns their removal, and the volumes that go with them. All ages are by the engine's own clock.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import structlog
from docker.errors import APIError

from docker import APIClient

GONE = (404, 409)
"""What the engine answers when the container is not there, or is just being removed."""
FORGOTTEN_AFTER = timedelta(minutes=30)
"""Choice: a task that lives looks at its container within seconds of its end, or of making it."""


def remove(engine: APIClient, container: str) -> None:
    """Remove it, at work or ended, with its volumes; nothing happens if it is not there."""
    try:
        engine.remove_container(container, v=True, force=True)
    except APIError as error:
        if error.status_code not in GONE:
            raise


def remove_earlier(engine: APIClient, labels: Mapping[str, str]) -> None:
    """Remove all that have these labels, at work or ended."""
    for found in _containers(engine, labels):
        _log().warning("removing the container of an earlier try", container=found["Id"][:12], state=found["Status"])
        remove(engine, found["Id"])


def remove_forgotten(engine: APIClient, labels: Mapping[str, str], after: timedelta = FORGOTTEN_AFTER) -> None:
    """Remove those with these labels that do nothing, and have done nothing for longer than `after`."""
    now = datetime.fromisoformat(engine.info()["SystemTime"])
    for found in _containers(engine, labels, status=["created", "exited", "dead"]):
        with contextlib.suppress(APIError):  # gone since; and what cannot be looked at is no matter of this task
            about = engine.inspect_container(found["Id"])
            last = max(datetime.fromisoformat(when) for when in (about["Created"], about["State"]["FinishedAt"]))
            if now - last > after:
                _log().warning("removing a container that no task follows", container=found["Id"][:12])
                remove(engine, found["Id"])


def _containers(engine: APIClient, labels: Mapping[str, str], **filters: list[str]) -> list[dict[str, Any]]:
    wanted = [f"{name}={value}" for name, value in labels.items()]
    found: list[dict[str, Any]] = engine.containers(all=True, filters={"label": wanted, **filters})
    return found


def _log() -> Any:
    return structlog.get_logger("xmas_job")
