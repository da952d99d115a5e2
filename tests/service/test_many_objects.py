"""A folder of 100,000 objects is listed whole and in order. Filled from inside the server: puts would take minutes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

from tests.s3_servers import S3Server
from tests.storage.conftest import open_s3

pytestmark = pytest.mark.service

NUM_OBJECTS = 100_000
ACCOUNT = "123456789012"


def test_hundred_thousand_objects_are_listed_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    try:
        host, port = running.get_host_and_port()
        store = open_s3(S3Server(f"http://{host}:{port}"), tmp_path, monkeypatch)
        bucket, _, prefix = store.uri.removeprefix("s3://").partition("/")
        backend = s3_backends[ACCOUNT]["aws"]
        for number in reversed(range(NUM_OBJECTS)):
            backend.put_object(bucket, f"{prefix}/many/{number:06d}", b"")
        started = time.monotonic()
        keys = [entry.key for entry in store.list("many")]
        print(f"{NUM_OBJECTS:,} objects listed in {time.monotonic() - started:.1f} s")
        assert keys == [f"many/{number:06d}" for number in range(NUM_OBJECTS)]
    finally:
        running.stop()
