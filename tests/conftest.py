from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Child


@pytest.fixture
def start() -> Iterator[Callable[..., Child]]:
    """Start `function(*arguments)` in a process of its own; what is left at the end is killed."""
    children: list[Child] = []

    def start_one(function: Callable[..., Any], *arguments: Any) -> Child:
        children.append(Child(function, *arguments))
        return children[-1]

    yield start_one
    for child in children:
        child.kill()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        assert os.environ.get("CI") != "true", "CI must be able to mount a small file system"
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
