from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any

import jsonschema
import pytest

from xmas_job.errors import BadDataError
from xmas_job.storage.manifest import (
    Check,
    Manifest,
    ManifestFile,
    Method,
    Proxy,
    Request,
    Resolved,
    Snapshot,
    Stratum,
    parse_manifest,
    verify_files,
)

FILES = {"subset.parquet": b"subset", "exports/llava.json": b"[]"}


def make_manifest(**changes: Any) -> Manifest:
    files = tuple(
        ManifestFile(path=path, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data), rows=2)
        for path, data in sorted(FILES.items())
    )
    parts: dict[str, Any] = {
        "snapshot": Snapshot(
            id="s", datasets=("demo@v1",), num_examples=20, num_quarantined=1, num_duplicates=2, num_excluded=0
        ),
        "request": Request(budget="15%"),
        "resolved": Resolved(num_examples=3, fraction=0.15),
        "method": Method(name="xmas", params={"a": 1, "b": 0.5, "c": True}, seed=0, text_only="proportional"),
        "proxy": Proxy(digest="p"),
        "strata": (Stratum(name="image", num_pool=15, num_selected=2),),
        "files": files,
        "checks": (Check(name="repeated_examples", status="passed", value=0.0, limit=0.0),),
    }
    return Manifest(**{**parts, **changes}).sealed()


def parse(data: bytes) -> Manifest:
    return parse_manifest(data, where="x/manifest.json")


@pytest.mark.parametrize("changes", [{}, {"proxy": None}, {"files": (), "checks": ()}])
def test_manifest_survives_the_way_through_its_bytes(changes: dict[str, Any]) -> None:
    manifest = make_manifest(**changes)
    assert parse(manifest.to_bytes()) == manifest
    assert parse(manifest.to_bytes()).to_bytes() == manifest.to_bytes()


def test_id_is_the_digest_of_everything_else() -> None:
    published = json.loads(make_manifest().to_bytes())
    selection_id = published.pop("selection_id")
    rest = json.dumps(published, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert selection_id == hashlib.sha256(rest).hexdigest()[:32]


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values that are neither object nor list."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))
    else:
        yield path


def test_every_edited_value_is_found() -> None:
    manifest = make_manifest()
    for path in leaves(json.loads(manifest.to_bytes())):
        edited = json.loads(manifest.to_bytes())
        node = edited
        for key in path[:-1]:
            node = node[key]
        value = node[path[-1]]
        node[path[-1]] = (
            not value if isinstance(value, bool) else value + (1 if isinstance(value, int | float) else "x")
        )
        data = json.dumps(edited, sort_keys=True, separators=(",", ":")).encode() + b"\n"
        with pytest.raises(BadDataError, match=r"x/manifest\.json (was edited|is no manifest)"):
            parse(data)


def test_every_edited_byte_is_found() -> None:
    data = make_manifest().to_bytes()
    for position in range(len(data)):
        edited = bytearray(data)
        edited[position] ^= 1
        with pytest.raises(BadDataError, match=r"x/manifest\.json"):
            parse(bytes(edited))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data + b"\n",
        lambda data: data.rstrip(b"\n"),
        lambda data: json.dumps(json.loads(data), indent=1).encode(),
        lambda data: data.replace(b'"schema_version":1', b'"more":1,"schema_version":1'),
        lambda data: b"",
        lambda data: b"[]",
        lambda data: data[:-5],
    ],
    ids=["line", "no line", "spaces", "more", "empty", "list", "cut"],
)
def test_other_form_is_no_manifest(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(BadDataError, match=r"x/manifest\.json"):
        parse(change(make_manifest().to_bytes()))


def test_files_are_checked_by_size_and_digest() -> None:
    manifest = make_manifest()
    assert verify_files(manifest, FILES.__getitem__, where="x") == 2
    for path, data in FILES.items():
        for bad in (b"", data + b" ", bytes([data[0] ^ 1]) + data[1:]):
            changed = {**FILES, path: bad}
            with pytest.raises(BadDataError, match=f"x/{path} is not what the manifest says"):
                verify_files(manifest, changed.__getitem__, where="x")


def test_missing_file_is_named() -> None:
    def read(path: str) -> bytes:
        raise FileNotFoundError(path)

    with pytest.raises(BadDataError, match=r"x/exports/llava\.json is gone"):
        verify_files(make_manifest(), read, where="x")


def shipped_schema() -> dict[str, Any]:
    text = (resources.files("xmas_job.storage") / "manifest.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def test_shipped_schema_is_the_models() -> None:
    """After a change of Manifest, write the file anew from this expression, with two spaces of indent."""
    assert shipped_schema() == Manifest.model_json_schema(mode="serialization")


@pytest.mark.parametrize("changes", [{}, {"proxy": None}])
def test_manifest_keeps_to_the_shipped_schema(changes: dict[str, Any]) -> None:
    jsonschema.validate(json.loads(make_manifest(**changes).to_bytes()), shipped_schema())


@pytest.mark.parametrize("missing", [*json.loads(make_manifest().to_bytes())])
def test_shipped_schema_asks_for_every_part(missing: str) -> None:
    published = json.loads(make_manifest().to_bytes())
    del published[missing]
    with pytest.raises(jsonschema.ValidationError, match=missing):
        jsonschema.validate(published, shipped_schema())
    with pytest.raises(jsonschema.ValidationError, match="more"):
        jsonschema.validate({**json.loads(make_manifest().to_bytes()), "more": 1}, shipped_schema())
