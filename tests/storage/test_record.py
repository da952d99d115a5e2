from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.s3_servers import S3Server
from tests.storage.conftest import open_s3
from xmas_job.errors import BadDataError
from xmas_job.storage.record import Artifact, Record, StoredFile, content_digest, parse_record
from xmas_job.storage.store import Store

FILES = {"b.txt": b"bee", "a/one": b"1", "a/deep/two": b"22"}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_record(files: dict[str, bytes], attempt: str = "attempts/1") -> Record:
    stored = tuple(
        StoredFile(path, f"{attempt}/{path}", sha256(data), len(data)) for path, data in sorted(files.items())
    )
    return Record(
        stage="s",
        version=2,
        fingerprint="f",
        section={"k": 1.5, "names": ["x"]},
        inputs={"pool": ("d1", "d2"), "none": ()},
        files=stored,
        digest=content_digest(stored),
        metrics={"num_examples": 3},
        provenance={"seconds": 1.0},
    )


@pytest.fixture
def artifact(store: Store) -> Artifact:
    for path, data in FILES.items():
        store.put(f"artifacts/s/f/attempts/1/{path}", data)
    return Artifact(store, "artifacts/s/f", make_record(FILES), "s")


def test_record_survives_the_way_through_its_bytes() -> None:
    record = make_record(FILES)
    assert parse_record(record.to_bytes()) == record
    assert parse_record(record.to_bytes()).to_bytes() == record.to_bytes()


def test_content_digest_is_that_of_names_and_sha256() -> None:
    expected = json.dumps([[path, sha256(FILES[path])] for path in sorted(FILES)], separators=(",", ":")).encode()
    assert content_digest(make_record(FILES).files) == sha256(expected)


def test_content_digest_depends_on_neither_order_nor_attempt() -> None:
    files = make_record(FILES).files
    assert content_digest(files[::-1]) == content_digest(files)
    assert content_digest(make_record(FILES, "attempts/7").files) == content_digest(files)


@pytest.mark.parametrize(
    "other",
    [{**FILES, "b.txt": b"boo"}, {**FILES, "c": b""}, {"a/one": b"1", "a/deep/two": b"22", "c.txt": b"bee"}],
    ids=["byte", "file", "name"],
)
def test_content_digest_depends_on_every_name_and_byte(other: dict[str, bytes]) -> None:
    assert content_digest(make_record(other).files) != content_digest(make_record(FILES).files)


def test_files_are_read_by_name(artifact: Artifact) -> None:
    assert artifact.paths == ["a/deep/two", "a/one", "b.txt"]
    assert {path: artifact.read(path) for path in artifact.paths} == FILES
    assert artifact.key("b.txt") == "artifacts/s/f/attempts/1/b.txt"
    with pytest.raises(KeyError, match=r"artifacts/s/f has no file 'c'"):
        artifact.read("c")


def test_every_flipped_bit_is_found_on_read(artifact: Artifact) -> None:
    for position in range(len(FILES["b.txt"]) * 8):
        data = bytearray(FILES["b.txt"])
        data[position // 8] ^= 1 << position % 8
        artifact.store.put(artifact.key("b.txt"), bytes(data))
        with pytest.raises(BadDataError, match="other bytes than were recorded"):
            artifact.read("b.txt")


def test_lost_file_is_named_on_read(artifact: Artifact) -> None:
    artifact.store.delete(artifact.key("b.txt"))
    with pytest.raises(BadDataError, match=r"attempts/1/b\.txt is gone"):
        artifact.read("b.txt")


def test_local_folder_holds_the_files_of_the_prefix(artifact: Artifact) -> None:
    folder = artifact.local_folder("a")
    assert (folder / "one").read_bytes() == b"1"
    assert (folder / "deep/two").read_bytes() == b"22"
    assert (artifact.local_folder("a/deep") / "two").read_bytes() == b"22"
    with pytest.raises(KeyError, match="no files under 'c'"):
        artifact.local_folder("c")


def test_local_folder_checks_every_file(artifact: Artifact) -> None:
    artifact.store.put(artifact.key("a/deep/two"), b"23")
    with pytest.raises(BadDataError, match="two has other bytes than were recorded"):
        artifact.local_folder("a")
    artifact.store.delete(artifact.key("a/deep/two"))
    with pytest.raises(BadDataError, match="two is gone"):
        artifact.local_folder("a")


def test_artifact_is_whole_while_every_file_has_its_size(artifact: Artifact) -> None:
    assert artifact.is_whole()
    artifact.store.put(artifact.key("a/one"), b"12")
    assert not artifact.is_whole()
    artifact.store.put(artifact.key("a/one"), b"1")
    assert artifact.is_whole()
    artifact.store.delete(artifact.key("a/one"))
    assert not artifact.is_whole()
    assert replace(artifact, record=make_record({})).is_whole()


def test_many_files_are_looked_at_by_one_call(moto: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage looks at all artifacts before it, and on an object store every call is waited and paid for."""
    store = open_s3(moto, tmp_path, monkeypatch)
    files = {f"part-{number:02d}": b"x" for number in range(20)}
    for path, data in files.items():
        store.put(f"artifacts/s/f/attempts/1/{path}", data)
    store.put("artifacts/s/f/attempts/10/part-00", b"another attempt's")
    calls: list[str] = []
    store._client.meta.events.register("before-call.s3", lambda model, **_: calls.append(model.name))  # type: ignore[attr-defined]
    assert Artifact(store, "artifacts/s/f", make_record(files)).is_whole()
    assert calls == ["ListObjectsV2"]
