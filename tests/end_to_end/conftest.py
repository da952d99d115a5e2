from __future__ import annotations

import pytest

from tests.end_to_end.line import COMPARISON, RECIPE, World, land


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups, also when only this folder is run
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # A file's tests share one landed world, so one worker process runs them all.
    for item in items:
        if "end_to_end" in str(item.path):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


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
