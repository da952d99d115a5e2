"""LLaVA and Vision-Flan rows: `id`, `image`, `conversations` of {from, value}, in a JSON list or JSON lines.

Owns the names of this format's fields. Refuses to own JSON streaming (json_rows) and the rules of a conversation
(turns).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from xmas_job.data.defects import Defect, DefectError, check_characters
from xmas_job.data.images import check_image_path
from xmas_job.data.readers import MAX_ROW_BYTES, BrokenRow, Row
from xmas_job.data.readers.json_rows import kind_of, read_values
from xmas_job.data.readers.turns import build_turns

_SOURCE_KEYS = ("task_name", "source", "dataset")
_OTHER_MEDIA_KEYS = frozenset({"video", "audio"})


def read(stream: BinaryIO, *, name: str, max_row_bytes: int = MAX_ROW_BYTES) -> Iterator[Row | BrokenRow]:
    """Yield every row of one file, whole or broken, in order; see `readers.Reader`.

    `image` is a path or a list of paths; missing, null, "" and [] mean text-only. The source is the first that is
    there: `task_name` (Vision-Flan), `source`, `dataset`, the first folder of the first image, "text" for
    text-only rows, `name`.
    """
    for source_row, value in read_values(stream, name=name, max_row_bytes=max_row_bytes):
        if isinstance(value, Defect):
            yield BrokenRow(source_row, value)
            continue
        try:
            yield _build_row(source_row, value, name)
        except DefectError as error:
            yield BrokenRow(source_row, error.defect)


def _build_row(source_row: int, record: Any, name: str) -> Row:
    if type(record) is not dict:
        raise DefectError("not_an_object", f"{kind_of(record)}")
    if not _OTHER_MEDIA_KEYS.isdisjoint(record) and any(record.get(key) for key in _OTHER_MEDIA_KEYS):
        raise DefectError("unsupported_media", f"one of {sorted(_OTHER_MEDIA_KEYS)}")
    image_paths = _image_paths(record.get("image"))
    return Row(
        source_row=source_row,
        orig_id=_orig_id(record.get("id")),
        source=_source(record, image_paths, name),
        image_paths=image_paths,
        turns=build_turns(_messages(record.get("conversations")), len(image_paths)),
    )


def _messages(conversations: Any) -> list[tuple[Any, Any]]:
    if type(conversations) is not list or not conversations:
        raise DefectError("no_conversation", "`conversations` is " + kind_of(conversations))
    try:
        return [(turn["from"], turn["value"]) for turn in conversations]
    except (KeyError, TypeError):  # build_turns names the first that lacks one
        return [(turn.get("from"), turn.get("value")) if type(turn) is dict else (None, None) for turn in conversations]


def _image_paths(image: Any) -> tuple[str, ...]:
    if image is None or image in ("", []):
        return ()
    paths = image if type(image) is list else [image]
    for path in paths:
        if type(path) is not str:
            raise DefectError("bad_image_field", f"`image` holds {kind_of(path)}")
    return tuple([check_image_path(path) for path in paths])


def _orig_id(value: Any) -> str | None:
    if value is None:
        return None
    text = str(value) if isinstance(value, str) else json.dumps(value)
    check_characters("id", text)
    return text


def _source(record: dict[str, Any], image_paths: tuple[str, ...], name: str) -> str:
    for key in _SOURCE_KEYS:
        value = record.get(key)
        if type(value) is str and value:
            check_characters(key, value)
            return value
    if not image_paths:
        return "text"
    folder, separator, _ = image_paths[0].partition("/")
    return folder if separator else name
