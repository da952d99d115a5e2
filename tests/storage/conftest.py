from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from xmas_job.storage.local import LocalStore
from xmas_job.storage.store import Store

STORES: dict[str, Callable[[Path], Store]] = {"local": lambda folder: LocalStore(folder / "store")}
"""Every kind of store, empty. What is tested here must hold for each."""


@pytest.fixture(params=sorted(STORES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return STORES[request.param](tmp_path)
