"""ingest: one landed dataset version as tables of examples and of quarantined rows; every image decoded once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from xmas_job.config import IngestSection
from xmas_job.data.collector import collector_paused
from xmas_job.data.defects import REASONS, Defect
from xmas_job.data.images import ImageInfo, inspect_many, resolve_inside
from xmas_job.data.readers import BrokenRow, Row, llava
from xmas_job.data.validation import ExampleRow, QuarantineRow, build_example_row
from xmas_job.data.words import count_words
from xmas_job.errors import BadDataError, UsageError
from xmas_job.stage_io import Metrics, StageIO
from xmas_job.storage.landing import landing_digest
from xmas_job.storage.schemas import EXAMPLES, QUARANTINE
from xmas_job.storage.store import Entry, Store

ROWS_AT_ONCE = 8192
DATA_FILES = (".json", ".jsonl")
NUM_TOP_REASONS = 3


def run(section: IngestSection, io: StageIO) -> Metrics:
    """Write `examples.parquet` and `quarantine.parquet` of one version.

    Raises:
        UsageError: if the version has no data file, or none of its images is under the image root.
        BadDataError: if more rows than `max_quarantine_fraction` are bad; the message has the top reasons.
    """
    source = io.source("landing")
    _require_unchanged(io, section.image_root)
    examples: list[pa.Table] = []
    quarantined: list[QuarantineRow] = []
    images: dict[str, ImageInfo | Defect] = {}
    num_rows = 0
    for chunk in _chunks(io, _data_files(io.store, source.uri)):
        _inspect(chunk, images, section, io)
        num_rows += len(chunk.rows)
        table, bad_rows = build_tables(chunk.rows, images, source_uri=chunk.source_uri, image_root=section.image_root)
        examples.append(table)
        quarantined += bad_rows
    if num_rows == 0:
        raise BadDataError(f"{source.uri} has no rows.", "Land data with at least one row.")
    if len(quarantined) > section.max_quarantine_fraction * num_rows or len(quarantined) == num_rows:
        _require_images(images, f"{io.store.uri}/{section.image_root}")
        raise _too_much_quarantined(num_rows, quarantined, section.max_quarantine_fraction, source.uri)
    _require_unchanged(io, section.image_root)
    table = pa.concat_tables(examples).sort_by(
        [("uid", "ascending"), ("source_uri", "ascending"), ("source_row", "ascending")]
    )
    io.output.table("examples.parquet", table, EXAMPLES)
    io.output.table("quarantine.parquet", _table(quarantined, QUARANTINE), QUARANTINE)
    return {
        "num_rows": num_rows,
        "num_examples": pc.count_distinct(table["uid"]).as_py(),
        "num_quarantined": len(quarantined),
        "num_images": sum(isinstance(image, ImageInfo) for image in images.values()),
        "num_shown_images": pc.sum(pc.list_value_length(table["image_uris"])).as_py() or 0,
        "num_words": pc.sum(table["num_words"]).as_py(),
    }


def _data_files(store: Store, prefix: str) -> list[Entry]:
    """Data files of a version: those directly in its folder."""
    files = [
        entry
        for entry in store.list(prefix)
        if entry.key.endswith(DATA_FILES) and "/" not in entry.key.removeprefix(f"{prefix}/")
    ]
    if not files:
        raise UsageError(f"{store.uri}/{prefix} has no .json or .jsonl file.", "Land LLaVA JSON or JSON lines there.")
    return files


@dataclass(frozen=True)
class _Chunk:
    """A run of rows of one file, and the bytes of all files before and up to its end."""

    source_uri: str
    rows: list[Row | BrokenRow]
    start: int
    end: int
    total: int


def _chunks(io: StageIO, files: Sequence[Entry]) -> Iterator[_Chunk]:
    """The rows of every file in runs of `ROWS_AT_ONCE`; tells progress in bytes."""
    total = sum(file.size for file in files)
    before = 0
    for file in files:
        start = before
        with io.store.open(file.key) as stream:
            rows = llava.read(stream, name=file.key.split("/")[1])
            while chunk := _next_rows(rows, file):
                end = before + min(stream.tell(), file.size)
                yield _Chunk(file.key, chunk, start, end, total)
                io.progress(end, total)
                start = end
        before += file.size


def _next_rows(rows: Iterator[Row | BrokenRow], file: Entry) -> list[Row | BrokenRow]:
    try:
        return next_rows(rows)
    except BadDataError as error:  # the reader knows the dataset's name only
        raise BadDataError(f"{file.key}: {error.message}", error.remedy) from None


def next_rows(rows: Iterator[Row | BrokenRow]) -> list[Row | BrokenRow]:
    """At most `ROWS_AT_ONCE` rows; none at the end."""
    with collector_paused():
        return list(islice(rows, ROWS_AT_ONCE))


def _inspect(chunk: _Chunk, images: dict[str, ImageInfo | Defect], section: IngestSection, io: StageIO) -> None:
    """Look into every image that these rows show and no earlier row did; progress moves on within the chunk."""
    paths = {path for row in chunk.rows if isinstance(row, Row) for path in row.image_paths} - images.keys()

    def tell(done: int, total: int) -> None:
        if done < total:  # the chunk's own end is told once it is in the table
            io.progress(chunk.start + (chunk.end - chunk.start) * done // total, chunk.total)

    images |= inspect_many(
        paths,
        _opener(io.store, section.image_root),
        max_pixels=section.max_image_pixels,
        num_workers=io.environment.workers,
        on_progress=tell,
    )


def _opener(store: Store, image_root: str) -> Callable[[str], bytes]:
    folder = store.own_folder(image_root)
    if folder is None:  # objects have no links that could lead out of the root
        return lambda path: store.read(f"{image_root}/{path}")
    return lambda path: resolve_inside(folder, path).read_bytes()


def build_tables(
    rows: Sequence[Row | BrokenRow], images: Mapping[str, ImageInfo | Defect], *, source_uri: str, image_root: str
) -> tuple[pa.Table, list[QuarantineRow]]:
    """The examples among these rows as a table, and the others with their reasons; see build_example_row.

    The column `num_words` counts the whitespace-separated words of all messages; token counts need a model and come
    with its signals.
    """
    good: list[ExampleRow] = []
    bad: list[QuarantineRow] = []
    with collector_paused():
        for row in rows:
            if isinstance(row, BrokenRow):
                bad.append(QuarantineRow(source_uri, row.source_row, row.defect.reason, row.defect.detail))
                continue
            built = build_example_row(row, images, source_uri=source_uri, image_root=image_root)
            if isinstance(built, ExampleRow):
                good.append(built)
            else:
                bad.append(built)
        words = count_words([row.conversation for row in good])
        return _table(good, EXAMPLES, num_words=words), bad


def _table(rows: Sequence[tuple[Any, ...]], schema: pa.Schema, **more: Any) -> pa.Table:
    """Rows as a table, column by column; they have the schema's columns in its order, but for those in `more`."""
    names = [name for name in schema.names if name not in more]
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    values = dict(zip(names, columns, strict=True)) | more
    return pa.table([pa.array(values[field.name], field.type) for field in schema], schema=schema)


def _require_unchanged(io: StageIO, image_root: str) -> None:
    """What is read must be what the run was started with: its digest is in the address of the result."""
    source = io.source("landing")
    if landing_digest(io.store, source.uri, image_root) != source.digest:
        raise UsageError(
            f"{io.store.uri}/{source.uri} has changed since the run started.", "Start a new run, or land a new version."
        )


def _require_images(images: dict[str, ImageInfo | Defect], image_root: str) -> None:
    """Refuse a root under which no image is at all: then the rows are not to blame."""
    is_missing = [isinstance(image, Defect) and image.reason == "missing_image" for image in images.values()]
    if is_missing and all(is_missing):
        raise UsageError(
            f"none of the {len(images):,} images is under {image_root}.",
            "Land the images there, or name their folder: --set image_roots.<dataset>=landing/<folder>.",
        )


def _too_much_quarantined(
    num_rows: int, quarantined: Sequence[QuarantineRow], limit: float, prefix: str
) -> BadDataError:
    counts = Counter(row.reason for row in quarantined).most_common(NUM_TOP_REASONS)
    reasons = "; ".join(f"{count:,} x {reason} ({REASONS[reason]})" for reason, count in counts)
    first = quarantined[0]
    return BadDataError(
        f"{len(quarantined):,} of {num_rows:,} rows of {prefix} are bad, the limit is {limit:.1%}: {reasons} "
        f"First: row {first.source_row} of {first.source_uri}: {first.detail}",
        "Mend the data, or raise ingest.max_quarantine_fraction.",
    )
