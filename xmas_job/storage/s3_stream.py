"""A seekable stream over an object: every refill is one ranged read, so a broken connection costs one refill."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

ReadRange = Callable[[int, int], bytes]
"""(first byte, byte after the last) -> bytes."""

REFILL_BYTES = 8 * 2**20


def open_ranges(read_range: ReadRange, size: int) -> io.BufferedReader:
    """A stream over `size` bytes that `read_range` gives piece by piece."""
    return io.BufferedReader(_Ranges(read_range, size), min(REFILL_BYTES, max(size, 1)))


class _Ranges(io.RawIOBase):
    def __init__(self, read_range: ReadRange, size: int) -> None:
        self._read_range = read_range
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(f"negative seek position {start + offset}")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        end = min(self._position + min(len(buffer), REFILL_BYTES), self._size)
        if end <= self._position:
            return 0
        data = self._read_range(self._position, end)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def readall(self) -> bytes:
        pieces = []
        while self._position < self._size:
            end = min(self._position + REFILL_BYTES, self._size)
            pieces.append(self._read_range(self._position, end))
            self._position = end
        return b"".join(pieces)
