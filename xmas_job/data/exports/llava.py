"""Examples as a LLaVA JSON list, for `--data_path` of a LLaVA trainer.

Owns the bytes of the file: equal examples in equal order give equal bytes. Reading it back gives the same uids, but
for examples with a system turn.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from types import MappingProxyType
from typing import Any, BinaryIO, Final

from xmas_job.data.examples import IMAGE_PLACEHOLDER, Example, Role, Turn
from xmas_job.errors import BadDataError

SPEAKERS: Final = MappingProxyType[Role, str]({"user": "human", "assistant": "gpt"})

_encode = json.JSONEncoder(ensure_ascii=False).encode


def write_llava(stream: BinaryIO, examples: Iterable[tuple[str | None, Example]], *, image_root: str) -> None:
    """Write (original id, example) pairs as they come, one a line within a JSON list.

    `id` is the original id as text, or the uid where there is none. `image` is a path, a list of paths for several
    images, absent for text-only. LLaVA 1.5's own loader knows human and gpt turns only, so a system turn's text opens
    the first human turn, after its images; such a row has another uid when it is read back.

    Args:
        stream: takes the bytes.
        examples: in the order of the file.
        image_root: the prefix of the image URIs that `--image_folder` stands for, without a trailing slash.

    Raises:
        BadDataError: an image does not lie under `image_root`.
    """
    separator = "[\n"
    for orig_id, example in examples:
        record = {"id": orig_id or example.uid, **_build_record(example, image_root)}
        stream.write((separator + _encode(record)).encode())
        separator = ",\n"
    stream.write(b"[]\n" if separator == "[\n" else b"\n]\n")


def _build_record(example: Example, image_root: str) -> dict[str, Any]:
    turns = [{"from": SPEAKERS[turn.role], "value": _value(turn)} for turn in _fold_system(example.turns)]
    paths = [_relative_path(uri, image_root, example.uid) for uri in example.image_uris]
    if not paths:
        return {"conversations": turns}
    return {"image": paths[0] if len(paths) == 1 else paths, "conversations": turns}


def _fold_system(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    if turns[0].role != "system":
        return turns
    system, question, *others = turns
    text = "\n".join(text for text in (system.text, question.text) if text)
    return (question._replace(text=text), *others)


def _relative_path(uri: str, image_root: str, uid: str) -> str:
    root = image_root + "/"
    if not uri.startswith(root):
        raise BadDataError(
            f"Image {uri} of example {uid} is not under {image_root}.",
            "Export with an image root that holds the images of every dataset in the subset.",
        )
    return uri[len(root) :]


def _value(turn: Turn) -> str:
    return f"{IMAGE_PLACEHOLDER}\n" * turn.num_images + turn.text
