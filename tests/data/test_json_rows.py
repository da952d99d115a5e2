import io
import json
import tracemalloc
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmas_job.data.defects import Defect
from xmas_job.data.readers import json_rows
from xmas_job.data.readers.json_rows import read_values
from xmas_job.errors import BadDataError

LIMIT = 1000


@pytest.fixture(params=[1, 2, 7, 64, 2**20], ids="chunk{}".format)
def chunk_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Every place of a file becomes the edge of a window."""
    monkeypatch.setattr(json_rows, "_CHUNK_BYTES", request.param)
    return int(request.param)


def values(data: bytes, limit: int = LIMIT) -> list[tuple[int, Any]]:
    return list(read_values(io.BytesIO(data), name="a.json", max_row_bytes=limit))


def reasons(found: Iterable[tuple[int, Any]]) -> list[Any]:
    return [value.reason if isinstance(value, Defect) else value for _, value in found]


def rows_before_the_error(data: bytes) -> list[Any]:
    found: list[Any] = []
    rows = read_values(io.BytesIO(data), name="a.json", max_row_bytes=LIMIT)
    with pytest.raises(BadDataError, match=r"a\.json is cut off or broken"):
        found.extend(value for _, value in rows)
    return found


@pytest.mark.usefixtures("chunk_bytes")
class TestAnyChunkSize:
    def test_list_and_lines_give_the_same_rows(self) -> None:
        rows = [{"a": 'ä€😀 \\ " \n'}, {"b": [None, True, {"c": "d"}]}, "x", {}]
        as_list = json.dumps(rows, ensure_ascii=False, indent=2).encode()
        as_lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        assert values(as_list) == values(as_lines) == list(enumerate(rows))

    def test_numbers_keep_their_spelling(self) -> None:
        assert values(b"[12, 1.50,\n-3e5 , 123456789012345678901234567890]") == [
            (0, "12"),
            (1, "1.50"),
            (2, "-3e5"),
            (3, "123456789012345678901234567890"),
        ]

    def test_crlf_blank_lines_and_byte_order_marks_are_no_rows(self) -> None:
        bom = b"\xef\xbb\xbf"
        assert values(bom + b'{"a":"1"}\r\n\r\n  \n' + bom + b'{"a":"2"}\r\n') == [(0, {"a": "1"}), (1, {"a": "2"})]
        assert values(bom + b'\r\n [\r\n{"a":"1"}\r\n]\r\n') == [(0, {"a": "1"})]

    def test_list_without_elements_has_no_rows(self) -> None:
        assert values(b" [ \n ] \n") == []

    def test_broken_line_is_one_defect_and_the_next_line_is_read(self) -> None:
        data = b'{"a":"1"}\n{"a":\n{"a":"1"}{}\n\xff\xfe{}\n{"a":"1","a":"2"}\n"' + b"x" * LIMIT + b'"\nnull'
        assert [row for row, _ in values(data)] == list(range(7))
        assert reasons(values(data)) == [
            {"a": "1"},
            "invalid_json",
            "invalid_json",
            "invalid_utf8",
            "duplicate_key",
            "row_too_long",
            None,
        ]

    def test_line_detail_names_the_line_of_the_file_though_blank_lines_do_not_count(self) -> None:
        ((row, defect),) = values(b'\n\n{"a"}\n')
        assert (row, defect.detail.split(":")[0]) == (0, "line 3")

    def test_last_line_cut_anywhere_is_one_truncated_row(self) -> None:
        whole = '{"a":"ä","b":["c"]}'.encode()
        for length in range(1, len(whole)):
            assert reasons(values(b'"first"\n' + whole[:length])) == ["first", "truncated_row"]
        assert values(b'"first"\n' + whole)[1] == (1, {"a": "ä", "b": ["c"]})

    def test_list_cut_anywhere_yields_the_complete_rows_and_then_ends_loudly(self) -> None:
        whole = '[{"a":"ä"}, {"b":["c"]} ]'.encode()
        for length in range(1, len(whole)):
            rows = [{"a": "ä"}, {"b": ["c"]}][: whole[:length].count(b"}")]
            assert rows_before_the_error(whole[:length]) == rows
        assert values(whole) == [(0, {"a": "ä"}), (1, {"b": ["c"]})]

    def test_error_of_a_broken_list_names_row_and_character(self) -> None:
        with pytest.raises(BadDataError, match=r"in row 2 at character 11;") as caught:
            values(b'["a", "b", }]')
        assert "JSON lines" in caught.value.remedy

    def test_defect_in_a_list_names_the_character(self) -> None:
        found = values(b'["a", "\xff", "' + b"x" * LIMIT + b'"]')
        details = [value.detail for _, value in found if isinstance(value, Defect)]
        assert details == ["character 7: byte 0xff", f"character 11: {LIMIT + 2} characters, over {LIMIT}"]

    def test_wrong_byte_in_a_list_breaks_its_row_only(self) -> None:
        assert reasons(values('[{"a":"ä"},{"a":"'.encode() + b"\xff" + b'"},{"a":"b"}]')) == [
            {"a": "ä"},
            "invalid_utf8",
            {"a": "b"},
        ]

    def test_repeated_key_in_a_list_breaks_its_row_only(self) -> None:
        assert reasons(values(b'[{"a":{"b":"1","b":"1"}},{"a":"b"}]')) == ["duplicate_key", {"a": "b"}]

    def test_long_element_of_a_list_breaks_its_row_only(self) -> None:
        assert reasons(values(b'["' + b"x" * LIMIT + b'","a"]')) == ["row_too_long", "a"]

    @pytest.mark.parametrize("data", [b'["a" "b"]', b'["a",]', b'["a"]["b"]', b'["a"]x', b'[{"a"}]', b"[,]", b'["a"}'])
    def test_broken_list_ends_loudly(self, data: bytes) -> None:
        with pytest.raises(BadDataError, match="cut off or broken"):
            values(data)


def test_rows_before_a_cut_are_yielded() -> None:
    assert rows_before_the_error(b'["a", "b", "c') == ["a", "b"]


@given(
    st.lists(st.recursive(st.text() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_any_list_reads_as_the_json_library_reads_it(rows: list[Any], indent: int | None, ascii_only: bool) -> None:
    data = json.dumps(rows, indent=indent, ensure_ascii=ascii_only).encode()
    assert values(data, limit=10**6) == list(enumerate(rows))


class Endless(io.RawIOBase):
    """A stream that never ends: only a bounded reader comes back from it."""

    def __init__(self, head: bytes, body: bytes) -> None:
        self._next, self._body, self.num_read = head, body, 0

    def read(self, size: int = -1) -> bytes:
        assert size > 0
        data, self._next = self._next or self._body * (size // len(self._body)), b""
        self.num_read += len(data)
        return data


def test_missing_quote_in_a_list_stops_after_a_bounded_read() -> None:
    stream: Any = Endless(b'["a", "never closed', b"x" * 64)
    with pytest.raises(BadDataError, match="in row 1"):
        list(read_values(stream, name="a.json", max_row_bytes=2**16))
    assert stream.num_read < 8 * 2**20


def test_giant_line_is_passed_over_without_being_kept() -> None:
    stream = io.BytesIO(b'"' + b"x" * (40 * 2**20) + b'"\n"small"\n')
    tracemalloc.start()
    found = list(read_values(stream, name="a.jsonl", max_row_bytes=2**20))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reasons(found) == ["row_too_long", "small"]
    assert peak < 12 * 2**20


def test_deep_nesting_is_a_defect_in_lines_and_an_error_in_lists() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    assert reasons(values(b'{"a":' + deep + b'}\n"b"', limit=10**6)) == ["invalid_json", "b"]
    with pytest.raises(BadDataError, match="nested too deeply"):
        values(deep, limit=10**6)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        ('["a"]'.encode("utf-16"), "UTF-16"),
        ('["a"]'.encode("utf-16-be").join([b"\xfe\xff", b""]), "UTF-16"),
    ],
)
def test_file_that_is_no_json_text_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(BadDataError, match=message):
        values(data)


def test_control_characters_inside_strings_are_kept() -> None:
    assert values(b'["a\tb\x01\nc"]') == [(0, "a\tb\x01\nc")]
