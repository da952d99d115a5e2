from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmas_job.fingerprint import canonical_json, digest_of, digest_of_file, stage_fingerprint

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text('aé☃\n"\\'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abé", max_size=3), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("value", "pinned"),
    [
        ({"b": [1, 2.5, None, True], "a": "x"}, b'{"a":"x","b":[1,2.5,null,true]}'),
        ({"ü": "é☃\n"}, '{"ü":"é☃\\n"}'.encode()),
        (("tuples", "are", ["lists"]), b'["tuples","are",["lists"]]'),
        ([1e-5, 0.1, 1e22, -0.0, 10**20], b"[1e-05,0.1,1e+22,-0.0,100000000000000000000]"),
        ({}, b"{}"),
    ],
)
def test_canonical_bytes_are_pinned(value: Any, pinned: bytes) -> None:
    assert canonical_json(value) == pinned


@given(JSON)
def test_canonical_json_says_what_it_was_given(value: Any) -> None:
    assert json.loads(canonical_json(value)) == value
    assert canonical_json(json.loads(canonical_json(value))) == canonical_json(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), {"deep": [float("nan")]}, "\ud800"])
def test_value_without_a_json_form_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"not JSON compliant|surrogates"):
        canonical_json(value)


@pytest.mark.parametrize("value", [{1, 2}, b"bytes", Path("x"), object()])
def test_value_of_another_type_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        canonical_json(value)


def test_digest_is_sha256_of_the_canonical_bytes() -> None:
    assert digest_of({"b": 1, "a": 2}) == hashlib.sha256(b'{"a":2,"b":1}').hexdigest()


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path, size: int) -> None:
    (tmp_path / "f").write_bytes(b"x" * size)
    assert digest_of_file(tmp_path / "f") == hashlib.sha256(b"x" * size).hexdigest()


def test_stage_fingerprint_is_pinned() -> None:
    """A change here gives every artifact in every store another address."""
    identity = b'{"inputs":{"pool":["ab","cd"]},"section":{"k":5,"seed":1234},"stage":"cluster","version":1}'
    pinned = "aadbf30b27bea33910afa18e06a6ba0c"
    assert hashlib.sha256(identity).hexdigest()[:32] == pinned
    assert stage_fingerprint("cluster", 1, {"seed": 1234, "k": 5}, {"pool": ("ab", "cd")}) == pinned


@pytest.mark.parametrize(
    "other",
    [
        ("cluster2", 1, {"k": 5}, {"pool": ["ab", "cd"]}),
        ("cluster", 2, {"k": 5}, {"pool": ["ab", "cd"]}),
        ("cluster", 1, {"k": 6}, {"pool": ["ab", "cd"]}),
        ("cluster", 1, {"k": 5, "more": None}, {"pool": ["ab", "cd"]}),
        ("cluster", 1, {"k": 5}, {"pool": ["cd", "ab"]}),
        ("cluster", 1, {"k": 5}, {"other": ["ab", "cd"]}),
        ("cluster", 1, {"k": 5}, {"pool": ["ab"], "other": ["cd"]}),
    ],
    ids=["stage", "version", "section", "new key", "order of inputs", "name of input", "number of inputs"],
)
def test_everything_that_determines_the_bytes_enters_the_fingerprint(other: Any) -> None:
    assert stage_fingerprint(*other) != stage_fingerprint("cluster", 1, {"k": 5}, {"pool": ["ab", "cd"]})
