from __future__ import annotations

from pathlib import Path

import pytest

from tests.stages.workbench import Workbench


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    """An empty store, and stage functions called on it."""
    return Workbench(tmp_path)
