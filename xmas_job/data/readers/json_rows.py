"""JSON lists and JSON lines as a stream of values, a bounded window at a time.

Owns bytes to JSON values: encodings, broken lines, cut-off files, size limits. Refuses to own what the values mean.

A broken *line* is one defect, the next line is read. A broken *list* ends in BadDataError after all rows before the
break: nobody can say how many rows are lost behind it, so no quarantine limit could notice.

Choice: the standard decoder moved along a window of text, not ijson, which refuses a whole list for one wrong byte
and keeps the last of two equal keys silently.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

from xmas_job.data.defects import Defect
from xmas_job.errors import BadDataError

_CHUNK_BYTES = 2**20
_BROKEN_LIST_ROWS = 8
"""A list element this many times the longest row is not a long row: a quote or a bracket is missing."""
_NOT_WHITESPACE = re.compile(r"[^ \t\n\r]")
_TOO_DEEP = "nested too deeply"


class NumberText(str):
    """A JSON number as it was written: ids stay exact, and no number of digits can hurt."""

    __slots__ = ()


def kind_of(value: Any) -> str:
    """What a person would call this value in JSON."""
    if value is None:
        return "missing or null"
    kinds = {NumberText: "a number", str: "a string", bool: "true or false", list: "a list", dict: "an object"}
    return kinds[type(value)] + ("" if value else ", empty")


class _Decoder:
    """The standard JSON decoder, lenient to control characters in strings, that notices repeated keys."""

    def __init__(self) -> None:
        self._repeated_keys: list[str] = []
        repeated_keys = self._repeated_keys

        def build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            result = dict(pairs)
            if len(result) != len(pairs):
                keys = [key for key, _ in pairs]
                repeated_keys.extend(key for key in result if keys.count(key) > 1)
            return result

        decoder = json.JSONDecoder(
            object_pairs_hook=build_object,
            parse_int=NumberText,
            parse_float=NumberText,
            parse_constant=NumberText,
            strict=False,
        )
        self._raw_decode = decoder.raw_decode

    def __call__(self, text: str, start: int) -> tuple[Any, int]:
        """The value that starts at `start` and the index after it; a value with a repeated key is a Defect."""
        self._repeated_keys.clear()
        value, end = self._raw_decode(text, start)
        if self._repeated_keys:
            return Defect("duplicate_key", f"{self._repeated_keys[0]!r:.100}"), end
        return value, end


def read_values(stream: BinaryIO, *, name: str, max_row_bytes: int) -> Iterator[tuple[int, Any]]:
    """Yield (0-based row, value or Defect) of a JSON list or of JSON lines, whichever the first character tells.

    Numbers come as `NumberText`. A byte order mark is skipped. Blank lines are skipped and not counted.

    Args:
        stream: needs `read(n)` only.
        name: what errors call the file.
        max_row_bytes: longest accepted row (for lists: in characters).

    Raises:
        BadDataError: the file is empty or UTF-16, or is a list that is cut off or broken.
    """
    head = _read_head(stream)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise BadDataError(f"{name} is UTF-16 text.", "Convert it to UTF-8 and land it again.")
    head = head.removeprefix(codecs.BOM_UTF8)
    if not head.strip():
        raise BadDataError(f"{name} is empty.", "Remove the file or land it again.")
    if head.lstrip().startswith(b"["):
        yield from _read_list(_Window(stream, head), name, max_row_bytes)
    else:
        yield from _read_lines(_split_lines(stream, head, max_row_bytes), max_row_bytes)


def _read_head(stream: BinaryIO) -> bytes:
    """The start of the stream, with enough of it to tell what it is however little a read returns."""
    head = b""
    while len(head.removeprefix(codecs.BOM_UTF8).strip()) < len(codecs.BOM_UTF8):
        more = stream.read(_CHUNK_BYTES)
        if not more:
            break
        head += more
    return head


# JSON lines


def _split_lines(stream: BinaryIO, head: bytes, max_row_bytes: int) -> Iterator[tuple[bytes | None, bool]]:
    """Yield (line without its LF, or None if too long; whether the LF was there), in bounded memory."""
    pending, too_long = b"", False
    chunk = head
    while chunk:
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            yield (None if too_long or len(line) > max_row_bytes else line), True
            too_long = False
        if len(pending) > max_row_bytes:
            pending, too_long = b"", True
        chunk = stream.read(_CHUNK_BYTES)
    if pending or too_long:
        yield (None if too_long else pending), False


def _read_lines(lines: Iterator[tuple[bytes | None, bool]], max_row_bytes: int) -> Iterator[tuple[int, Any]]:
    decode = _Decoder()
    row = 0
    for number, (line, ended) in enumerate(lines, start=1):
        if line is None:
            yield row, Defect("row_too_long", f"line {number}: over {max_row_bytes} bytes")
        elif line.isspace() or not line:
            continue
        else:
            yield row, _read_line(decode, line, number, ended=ended)
        row += 1


def _read_line(decode: _Decoder, line: bytes, number: int, *, ended: bool) -> Any:
    try:
        # Files joined by `cat` carry a byte order mark in the middle.
        text = line.removeprefix(codecs.BOM_UTF8).strip().decode()
        value, end = decode(text, 0)
    except UnicodeDecodeError as error:
        defect = Defect("invalid_utf8", f"line {number}: byte {error.object[error.start]:#04x} at byte {error.start}")
    except json.JSONDecodeError as error:
        defect = Defect("invalid_json", f"line {number}: {error.msg} at character {error.pos}")
    except RecursionError:
        defect = Defect("invalid_json", f"line {number}: {_TOO_DEEP}")
    else:
        if end == len(text):
            return value
        defect = Defect("invalid_json", f"line {number}: extra text at character {end}")
    return defect if ended else Defect("truncated_row", defect.detail)


# JSON lists


class _Window:
    """Text that slides over a stream: `text[start:]` is what is not yet consumed.

    Bytes that are not UTF-8 become lone surrogates here, so that they break one row and not the file.
    """

    def __init__(self, stream: BinaryIO, head: bytes) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._num_dropped = 0
        self.text = self._decoder.decode(head)
        self.start = 0

    @property
    def num_pending(self) -> int:
        return len(self.text) - self.start

    def position(self, index: int) -> int:
        """Characters of the file before `text[index]`."""
        return self._num_dropped + index

    def grow(self) -> bool:
        """Read at least as much again as is pending and drop what is consumed; False at the end, nothing moved."""
        data = self._stream.read(max(_CHUNK_BYTES, self.num_pending))
        if not data:
            self.text += self._decoder.decode(b"", final=True)
            return False
        self._num_dropped += self.start
        self.text, self.start = self.text[self.start :] + self._decoder.decode(data), 0
        return True

    def peek(self) -> str:
        """Skip whitespace and return the character after it, not consumed; "" at the end of the stream."""
        if self.start < len(self.text) and self.text[self.start] in ",{]":  # the common case, without a search
            return self.text[self.start]
        while True:
            found = _NOT_WHITESPACE.search(self.text, self.start)
            self.start = found.start() if found else len(self.text)
            if found or not self.grow():
                return self.text[self.start : self.start + 1]


def _read_list(window: _Window, name: str, max_row_bytes: int) -> Iterator[tuple[int, Any]]:
    decode = _Decoder()
    window.peek()
    window.start += 1  # the opening bracket
    row, closed = 0, window.peek() == "]"
    while not closed:
        window.peek()
        yield row, _read_element(decode, window, name, row, max_row_bytes)
        row += 1
        symbol = window.peek()
        if symbol not in {",", "]"}:
            _refuse_list(name, row, window.position(window.start), "neither a comma nor the closing bracket")
        closed = symbol == "]"
        window.start += not closed
    window.start += 1  # the closing bracket
    if window.peek():
        _refuse_list(name, row, window.position(window.start), "text after the closing bracket")


def _read_element(decode: _Decoder, window: _Window, name: str, row: int, max_row_bytes: int) -> Any:
    """Parse the element at the window's start; a failure may only mean that the window is too short."""
    while True:
        try:
            value, end = decode(window.text, window.start)
        except RecursionError:
            _refuse_list(name, row, window.position(window.start), _TOO_DEEP)
        except json.JSONDecodeError as error:
            position = window.position(error.pos)
            if window.num_pending > _BROKEN_LIST_ROWS * max_row_bytes or not window.grow():
                _refuse_list(name, row, position, error.msg)
        else:
            # A number that looks whole may go on behind the window, after as much as "e+".
            if len(window.text) - end > len("e+") or not window.grow():
                return _take(window, end, value, max_row_bytes)


def _take(window: _Window, end: int, value: Any, max_row_bytes: int) -> Any:
    start, window.start = window.start, end
    if end - start > max_row_bytes:
        detail = f"character {window.position(start)}: {end - start} characters, over {max_row_bytes}"
        return Defect("row_too_long", detail)
    if window.text.isascii():
        return value
    try:
        window.text[start:end].encode()
    except UnicodeEncodeError as error:
        place = start + error.start
        return Defect(
            "invalid_utf8", f"character {window.position(place)}: byte {ord(window.text[place]) - 0xDC00:#04x}"
        )
    return value


def _refuse_list(name: str, row: int, position: int, problem: str) -> NoReturn:
    raise BadDataError(
        f"{name} is cut off or broken: {problem}, in row {row} at character {position}; the rows behind are lost.",
        "Land the whole file again, or as JSON lines, where a broken row is set aside alone.",
    )
