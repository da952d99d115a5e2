"""Readers: one file per format, bytes in, rows or broken rows out, in the order of the file.

Owns what a row is before its images are seen. Refuses to own images (data.images) and identity (data.examples).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from xmas_job.data.defects import Defect
from xmas_job.data.examples import Turn

MAX_ROW_BYTES = 8 * 2**20
"""Longest row a reader accepts. Choice: hundreds of times the longest LLaVA row, small against any memory."""


@dataclass(slots=True)
class Row:
    """One well-formed row: its turns are normalised, alternate and use exactly the images it names.

    Attributes:
        source_row: 0-based place in the file; blank lines do not count, broken rows do.
        orig_id: the id as written, or None where there is none; neither unique nor of one type.
        source: the task or collection the row comes from.
        image_paths: checked, `/`-separated, relative to the image root, in the order the turns use them.
        turns: the conversation.
    """

    source_row: int
    orig_id: str | None
    source: str
    image_paths: tuple[str, ...]
    turns: tuple[Turn, ...]


@dataclass(slots=True)
class BrokenRow:
    """A row that cannot be an example, at its 0-based place in the file."""

    source_row: int
    defect: Defect


class Reader(Protocol):
    """What every format offers: a stream of rows that never holds the whole file.

    `name` is the dataset's name: the source of rows that tell none, and the name errors use.
    Raises BadDataError where the number of lost rows cannot be known.
    """

    def __call__(self, stream: BinaryIO, *, name: str, max_row_bytes: int = MAX_ROW_BYTES) -> Iterator[Row | BrokenRow]:
        """Yield every row of `stream`, whole or broken, in order."""
