from __future__ import annotations

from pathlib import Path

import pytest

from tests.s3_servers import S3Server
from xmas_job.storage.local import LocalStore
from xmas_job.storage.roots import open_store
from xmas_job.storage.store import Store

STORES = ("local", "moto", pytest.param("radosgw", marks=pytest.mark.service))
"""Every kind of store. What is tested here must hold for each."""


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store of every kind, empty."""
    if request.param == "local":
        return LocalStore(tmp_path / "store")
    server: S3Server = request.getfixturevalue(request.param)
    return open_s3(server, tmp_path, monkeypatch)


def open_s3(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XMAS_SCRATCH", str(tmp_path / "scratch-of-stores"))
    return open_store(server.new_root())
