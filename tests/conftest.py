from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import disks
from tests.alerts.receiver import Receiver, receiving
from tests.processes import Child
from tests.s3_servers import S3Server, moto_server
from tests.service.radosgw import radosgw_server


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
    with disks.small_disk(tmp_path / "disk", "1m") as folder:
        yield folder


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A web server that keeps the alerts it is sent."""
    with receiving() as server:
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    """Moto's S3 server, one for all tests of this process; every test makes its own buckets."""
    with moto_server() as server:
        yield server


@pytest.fixture(scope="session")
def radosgw() -> Iterator[S3Server]:
    """Ceph's S3 server, which checks signatures; for service tests."""
    with radosgw_server() as server:
        yield server
