"""What is special to the store in a bucket: big files, refusals with their remedies, keys that change, the probe."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.retries import standard

from tests.fault_proxy import FaultProxy, fault_proxy
from tests.s3_servers import KEYS, S3Server
from tests.storage.conftest import open_s3
from xmas_job.environment import Environment
from xmas_job.errors import TryAgainError, UsageError, XmasError
from xmas_job.storage.probe import probe
from xmas_job.storage.roots import open_store
from xmas_job.storage.s3 import PART_BYTES
from xmas_job.storage.s3_client import write_arguments
from xmas_job.storage.s3_stream import REFILL_BYTES
from xmas_job.storage.store import Store


@pytest.fixture
def s3(moto: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    return open_s3(moto, tmp_path, monkeypatch)


@pytest.fixture
def proxy(moto: S3Server) -> Iterator[FaultProxy]:
    with fault_proxy(moto.endpoint) as running:
        yield running


def client_of(server: S3Server) -> Any:
    return boto3.session.Session().client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=server.keys["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=server.keys["AWS_SECRET_ACCESS_KEY"],
        config=Config(s3={"addressing_style": "path"}),
    )


def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XMAS_S3_ATTEMPTS", "2")
    monkeypatch.setenv("XMAS_S3_TIMEOUT_SECONDS", "2")


# --- bytes ------------------------------------------------------------------------------------------------------------


def test_big_file_goes_up_in_parts_and_comes_back_by_ranges(s3: Store, moto: S3Server, tmp_path: Path) -> None:
    data = bytes(range(256)) * (2 * PART_BYTES // 256) + b"the end"
    local = tmp_path / "big"
    local.write_bytes(data)
    s3.upload(local, "big")
    assert not local.exists()
    ((key, etag),) = ((entry.key, entry.etag) for entry in s3.list(""))
    assert (key, etag.partition("-")[2]) == ("big", "3"), "three parts"
    with s3.open("big") as stream:
        stream.seek(PART_BYTES - 1)
        assert stream.read(2) == data[PART_BYTES - 1 : PART_BYTES + 1]
        stream.seek(-7, 2)
        assert stream.read() == b"the end"
        stream.seek(0)
        assert stream.read() == data
    assert s3.size("big") == len(data)


def test_object_that_is_replaced_while_it_is_read_is_an_error(s3: Store) -> None:
    s3.put("a", b"1" * (REFILL_BYTES + 1))
    with s3.open("a") as stream:
        stream.read(1)
        s3.put("a", b"2" * (REFILL_BYTES + 1))
        with pytest.raises(TryAgainError, match="was replaced while it was read"):
            stream.read()


def test_list_goes_over_many_pages_and_skips_markers_of_folders(s3: Store, moto: S3Server) -> None:
    client = client_of(moto)
    bucket, _, prefix = s3.uri.removeprefix("s3://").partition("/")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: s3.put(f"many/{number:06d}", b""), range(1005)))
    client.put_object(Bucket=bucket, Key=f"{prefix}/many/folder/", Body=b"")
    assert [entry.key for entry in s3.list("many")] == [f"many/{number:06d}" for number in range(1005)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {}),
        ({"s3_sse": "AES256"}, {"ServerSideEncryption": "AES256"}),
        ({"s3_kms_key": "k"}, {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "k"}),
    ],
)
def test_every_write_names_its_encryption(settings: dict[str, Any], expected: dict[str, str]) -> None:
    assert write_arguments(Environment(**settings)) == expected


def test_every_way_of_writing_uses_the_key(moto: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XMAS_S3_KMS_KEY", "alias/tested")
    store = open_s3(moto, tmp_path, monkeypatch)
    (tmp_path / "local").write_bytes(b"1")
    store.put("put", b"1")
    store.create("create", b"1")
    store.upload(tmp_path / "local", "upload")
    store.copy("put", "copy")
    bucket, _, prefix = store.uri.removeprefix("s3://").partition("/")
    heads = [
        client_of(moto).head_object(Bucket=bucket, Key=f"{prefix}/{key}") for key in ("put", "create", "upload", "copy")
    ]
    assert [head.get("SSEKMSKeyId") for head in heads] == ["alias/tested"] * 4


# --- create-only ------------------------------------------------------------------------------------------------------


def test_store_that_ignores_the_condition_is_refused(
    s3: Store, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe(s3)
    proxy.strip = frozenset({"if-none-match"})
    monkeypatch.setenv("XMAS_S3_ENDPOINT", proxy.endpoint)
    with pytest.raises(UsageError, match="does not keep create-only puts"):
        probe(open_store(s3.uri))
    assert list(s3.list("")) == [], "the probe leaves nothing"


def test_create_whose_answer_was_lost_knows_its_own_object(
    s3: Store, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XMAS_S3_ENDPOINT", proxy.endpoint)
    behind = open_store(s3.uri)
    proxy.plan("lost", 0)
    assert behind.create("a", b"mine") is True
    assert proxy.num_requests == 3, "put, put again, look"
    proxy.plan("lost", 0)
    assert behind.create("a", b"mine") is False, "equal bytes are not one's own object"


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_closed_port_is_told_after_a_few_tries(s3: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:  # bound, not listening: refuses
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setenv("XMAS_S3_ENDPOINT", f"http://127.0.0.1:{bound.getsockname()[1]}")
        pauses: list[float] = []
        pause = standard.ExponentialBackoff.delay_amount

        def noted(backoff: Any, context: Any) -> float:
            pauses.append(pause(backoff, context))
            return 0.0

        monkeypatch.setattr(standard.ExponentialBackoff, "delay_amount", noted)
        store = open_store(s3.uri)
        with pytest.raises(TryAgainError, match="the store cannot be reached") as caught:
            store.read("a")
    assert caught.value.exit_code == 75
    assert len(pauses) == Environment(store_root=s3.uri, scratch_root="").s3_attempts - 1
    assert max(pauses) <= 20, "seconds"


def test_missing_bucket_is_told_with_its_name(s3: Store) -> None:
    store = open_store("s3://no-such-bucket-here/a")
    for call in (lambda: store.put("k", b""), lambda: store.read("k"), lambda: list(store.list(""))):
        with pytest.raises(UsageError, match="NoSuchBucket") as caught:
            call()
        assert "s3://no-such-bucket-here/a" in caught.value.message
        assert "Create the bucket" in caught.value.remedy


def test_command_line_ends_with_the_remedy_and_the_exit_code(s3: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-m", "xmas_job.cli", "show"]
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{bound.getsockname()[1]}"
        for root, endpoint, code in (("s3://no-such-bucket-here", "", 2), (s3.uri, nobody, 75)):
            variables = {"XMAS_STORE_ROOT": root} | ({"XMAS_S3_ENDPOINT": endpoint} if endpoint else {})
            done = subprocess.run(
                command, env={**os.environ, **variables}, capture_output=True, text=True, check=False, timeout=60
            )
            assert done.returncode == code, done.stderr
            assert done.stderr.startswith(f"error: {root}")
            assert len(done.stderr.splitlines()) == 2
            assert KEYS["AWS_SECRET_ACCESS_KEY"] not in done.stderr


@contextmanager
def answering(status: int, code: str) -> Iterator[str]:
    """A server that answers everything with this error; its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f"<Error><Code>{code}</Code><Message>secret-looking</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_HEAD(self) -> None:
            is_object = self.path.count("/") > 1  # a bucket is asked for its region, by the client itself
            self.send_response(status if is_object else 501)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "code", "exit_code", "remedy"),
    [
        (403, "AccessDenied", 2, "s3:ListBucket"),
        (403, "InvalidAccessKeyId", 2, "does not know these credentials"),
        (403, "SignatureDoesNotMatch", 2, "does not know these credentials"),
        (403, "RequestTimeTooSkewed", 2, "clock"),
        (400, "ExpiredToken", 75, "Renew them"),
        (400, "KMS.NotFoundException", 2, "XMAS_S3_KMS_KEY"),
        (301, "PermanentRedirect", 2, "XMAS_S3_REGION"),
        (501, "NotImplemented", 2, "XMAS_S3_"),
        (500, "InternalError", 75, "same command again"),
        (503, "SlowDown", 75, "same command again"),
    ],
)
def test_refusal_has_its_exit_code_and_remedy(
    s3: Store, monkeypatch: pytest.MonkeyPatch, status: int, code: str, exit_code: int, remedy: str
) -> None:
    without_waiting(monkeypatch)
    with answering(status, code) as endpoint:
        monkeypatch.setenv("XMAS_S3_ENDPOINT", endpoint)
        with pytest.raises(XmasError) as caught:
            open_store(s3.uri).read("a")
    error = caught.value
    assert (error.exit_code, remedy in error.remedy) == (exit_code, True), error
    assert code in error.message
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in str(error)


@pytest.mark.parametrize(("status", "code", "remedy"), [(400, "ExpiredToken", "Renew them"), (403, "Any", "none that")])
def test_refusal_without_a_reason_names_the_usual_ones(
    s3: Store, monkeypatch: pytest.MonkeyPatch, status: int, code: str, remedy: str
) -> None:
    """HEAD, the first call of every run, is answered without a body."""
    with answering(status, code) as endpoint:
        monkeypatch.setenv("XMAS_S3_ENDPOINT", endpoint)
        with pytest.raises(XmasError) as caught:
            open_store(s3.uri).exists("a")
    assert remedy in caught.value.remedy
    assert (caught.value.exit_code == 75) == (status == 400)


def test_no_credentials_are_told(s3: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.delenv(name)
    with pytest.raises(UsageError, match="no whole credentials"):
        open_store(s3.uri).read("a")


@pytest.mark.parametrize("endpoint", ["localhost:9000", "http://user:secret@localhost", "ftp://localhost"])
def test_wrong_endpoint_is_refused_without_telling_it(
    s3: Store, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("XMAS_S3_ENDPOINT", endpoint)
    with pytest.raises(UsageError, match="XMAS_S3_ENDPOINT is no URL") as caught:
        open_store(s3.uri)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("root", ["s3://", "s3:///a", "s3://bucket/a/../b"])
def test_wrong_root_is_refused(s3: Store, root: str) -> None:
    with pytest.raises(UsageError, match="is not s3://bucket/prefix"):
        open_store(root)


# --- credentials that change ------------------------------------------------------------------------------------------


def test_keys_that_expire_are_renewed_in_mid_run(
    s3: Store, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A credential process, as sign-on tools are used, gives keys that are about to expire."""
    for name in KEYS:
        monkeypatch.delenv(name)
    until = (datetime.now(UTC) + timedelta(seconds=30)).isoformat()
    keys = {"Version": 1, "SecretAccessKey": "s", "SessionToken": "t", "Expiration": until}
    script = tmp_path / "keys.sh"
    script.write_text(
        f"#!/bin/sh\necho x >> {tmp_path}/asked\nn=$(wc -l < {tmp_path}/asked)\n"
        f"""echo '{json.dumps(keys)[:-1]}, "AccessKeyId": "KEY'$n'"}}'\n"""
    )
    script.chmod(0o755)
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {script}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("XMAS_S3_ENDPOINT", proxy.endpoint)
    store = open_store(s3.uri)
    for _ in range(3):
        store.put("a", b"1")
    assert proxy.keys_seen[0] != proxy.keys_seen[-1]
