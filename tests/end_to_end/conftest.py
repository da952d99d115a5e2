from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from tests.end_to_end.line import COMPARISON, RECIPE, World, land


def built_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], World]) -> World:
    """A world of this worker's own; the first worker that asks builds it, the others copy it."""
    own = factory.mktemp(name) / "world"
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return build(own)
    first = factory.getbasetemp().parent / name
    done = first.with_suffix(".done")
    with FileLock(first.with_suffix(".lock")):
        if not done.exists():
            shutil.rmtree(first, ignore_errors=True)  # of a worker whose attempt failed
            build(first)
            done.touch()
    return World(first).copy(own)


@pytest.fixture(scope="session")
def landed(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Data and models have landed; nothing has run."""
    return built_once(tmp_path_factory, "landed", lambda to: land(to, {**RECIPE, "comparison": COMPARISON}))


@pytest.fixture(scope="session")
def finished(landed: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The whole line has run once, undisturbed."""

    def build(to: Path) -> World:
        world = landed.copy(to)
        world.run("--run-id", "tested")
        return world

    return built_once(tmp_path_factory, "finished", build)
