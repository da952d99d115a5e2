from __future__ import annotations

import pytest

from tests.end_to_end.line import COMPARISON, RECIPE, World, land


@pytest.fixture(scope="session")
def landed(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Data and models have landed; nothing has run."""
    return land(tmp_path_factory.mktemp("landed") / "world", {**RECIPE, "comparison": COMPARISON})


@pytest.fixture(scope="session")
def finished(landed: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The whole line has run once, undisturbed."""
    world = landed.copy(tmp_path_factory.mktemp("finished") / "world")
    world.run("--run-id", "tested")
    return world
