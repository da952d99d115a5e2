from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.small_world import World, land
from xmas_job.commands.run import run_line


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Data has landed; nothing has run."""
    landed = land(tmp_path / "world")
    for name, value in landed.variables.items():
        monkeypatch.setenv(name, value)
    return landed


@pytest.fixture(scope="session")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, dict[str, Any], list[tuple[str, Any]]]:
    landed = land(tmp_path_factory.mktemp("finished") / "world")
    events: list[tuple[str, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        for name, value in landed.variables.items():
            patch.setenv(name, value)
        result = run_line(
            landed.environment, landed.config(), "first", lambda stage, event: events.append((stage, event))
        )
    return landed, dict(result), events


@pytest.fixture
def finished(
    _finished: tuple[World, dict[str, Any], list[tuple[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """The whole line has run once, as run `first`; not to be changed."""
    world = _finished[0]
    for name, value in world.variables.items():
        monkeypatch.setenv(name, value)
    before = {entry.key: entry for entry in world.store.list("selections")}
    yield world
    assert {entry.key: entry for entry in world.store.list("selections")}.items() >= before.items()


@pytest.fixture
def first_result(_finished: tuple[World, dict[str, Any], list[tuple[str, Any]]]) -> dict[str, Any]:
    """What that run printed."""
    return _finished[1]


@pytest.fixture
def first_events(_finished: tuple[World, dict[str, Any], list[tuple[str, Any]]]) -> list[tuple[str, Any]]:
    """(stage, event) of that run."""
    return _finished[2]
