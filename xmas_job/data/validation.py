"""From a row and what its images turned out to be, to one row of the examples table, or the defect that forbids it.

Owns the columns' meaning. Refuses to own reading (readers), decoding (images) and the Parquet schema (storage).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from xmas_job.data.defects import Defect, Reason
from xmas_job.data.examples import Modality, Turn, compute_digests
from xmas_job.data.images import ImageInfo
from xmas_job.data.readers import Row


class ExampleRow(NamedTuple):
    """One row of the `examples` table but for its `num_words`, fields in the table's order.

    A tuple, so that rows turn into columns fast. Words are counted for many rows at once (data.words).

    Attributes:
        image_modes: Pillow's name of each image's pixel type, in the images' order.
        image_formats: the true format of each image, whatever its file is called.
        width: pixels of the first image; None for text-only examples.
        height: pixels of the first image; None for text-only examples.
        num_turns: messages, the system turn included.
    """

    uid: str
    source: str
    orig_id: str | None
    source_uri: str
    source_row: int
    image_uris: list[str]
    image_sha256: list[str]
    image_modes: list[str]
    image_formats: list[str]
    width: int | None
    height: int | None
    num_turns: int
    conversation: tuple[Turn, ...]
    text_sha256: str
    modality: Modality


class QuarantineRow(NamedTuple):
    """One row of the `quarantine` table, fields in the table's order."""

    source_uri: str
    source_row: int
    reason: Reason
    detail: str


def build_example_row(
    row: Row, images: Mapping[str, ImageInfo | Defect], *, source_uri: str, image_root: str
) -> ExampleRow | QuarantineRow:
    """Join a row with its images.

    Args:
        row: as a reader yields it.
        images: by image path, as inspect_many returns them; every path of the row is in it.
        source_uri: of the file the row stands in.
        image_root: URI or key that the row's image paths are relative to, without a trailing slash.
    """
    infos: list[ImageInfo] = []
    for path in row.image_paths:
        info = images[path]
        if isinstance(info, Defect):
            detail = info.detail if path in info.detail else f"{path}: {info.detail}"
            return QuarantineRow(source_uri, row.source_row, info.reason, detail)
        infos.append(info)
    image_sha256 = [info.sha256 for info in infos]
    uid, text_sha256 = compute_digests(row.turns, image_sha256)
    first = infos[0] if infos else None
    return ExampleRow(  # by place, because names cost time a row
        uid,
        row.source,
        row.orig_id,
        source_uri,
        row.source_row,
        [f"{image_root}/{path}" for path in row.image_paths],
        image_sha256,
        [info.mode for info in infos],
        [info.format for info in infos],
        first.width if first else None,
        first.height if first else None,
        len(row.turns),
        row.turns,
        text_sha256,
        "image" if first else "text",
    )
