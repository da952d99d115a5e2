"""Why a landed row cannot be an example: the closed list of reason codes, and one defect with its detail.

Owns the codes and their one-line meanings (quarantine tables, reports and docs read them). Refuses to own the
checks: readers, images and validation find the defects.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

Reason = Literal[
    "invalid_json",
    "truncated_row",
    "row_too_long",
    "invalid_utf8",
    "duplicate_key",
    "not_an_object",
    "no_conversation",
    "bad_turn",
    "unknown_role",
    "not_alternating",
    "empty_question",
    "empty_answer",
    "missing_answer",
    "nul_character",
    "lone_surrogate",
    "placeholder_mismatch",
    "placeholder_outside_question",
    "unsupported_media",
    "bad_image_field",
    "image_path_absolute",
    "image_path_outside_root",
    "image_path_too_long",
    "image_is_url",
    "missing_image",
    "empty_image",
    "not_an_image",
    "truncated_image",
    "undecodable_image",
    "too_many_pixels",
    "unsupported_image_mode",
]

REASONS: Final = MappingProxyType[Reason, str](
    {
        "invalid_json": "The line is not one JSON value.",
        "truncated_row": "The last line of the file ends in the middle of a row: the upload was probably cut off.",
        "row_too_long": "The row is longer than the reader accepts.",
        "invalid_utf8": "The row holds bytes that are not UTF-8.",
        "duplicate_key": "An object names one key twice, so two programs may read two different rows.",
        "not_an_object": "The row is JSON, but not an object.",
        "no_conversation": "The conversation is missing, empty, or not a list.",
        "bad_turn": "A turn is not an object with a role and a text.",
        "unknown_role": "A turn's role is none of human, user, gpt, assistant, system.",
        "not_alternating": "Questions and answers do not take turns.",
        "empty_question": "A question has neither text nor image.",
        "empty_answer": "An answer has no text: there is nothing to learn from it.",
        "missing_answer": "The conversation ends with a question.",
        "nul_character": "A text, id, source or path holds a NUL character.",
        "lone_surrogate": "A text, id, source or path holds half of a surrogate pair, which UTF-8 cannot store.",
        "placeholder_mismatch": "The number of <image> placeholders is not the number of images.",
        "placeholder_outside_question": "An <image> placeholder stands in an answer or a system turn.",
        "unsupported_media": "The row shows a video or plays audio; only images are supported.",
        "bad_image_field": "The image field is neither a path nor a list of paths.",
        "image_path_absolute": "The image path is absolute; it must be relative to the image root.",
        "image_path_outside_root": "The image path leaves the image root by `..` or by a symbolic link.",
        "image_path_too_long": "The image path is longer than a file system or an object store accepts.",
        "image_is_url": "The image is a URL or holds the bytes inline; images must be landed as files.",
        "missing_image": "There is no such image file.",
        "empty_image": "The image file has no bytes.",
        "not_an_image": "The bytes are no image of a known format, whatever the name says (often an HTML page).",
        "truncated_image": "The image file ends too early.",
        "undecodable_image": "The image file is damaged.",
        "too_many_pixels": "The image claims more pixels than the limit; it was not decoded.",
        "unsupported_image_mode": "The pixels have a type without an agreed meaning as RGB, such as 32-bit floats.",
    }
)

_MAX_DETAIL = 300


@dataclass(frozen=True, slots=True)
class Defect:
    """One reason code and what exactly was seen; `detail` is printable and short."""

    reason: Reason
    detail: str


class DefectError(Exception):
    """A check found a defect. Raised inside the data layer, turned into a quarantine row at its boundary."""

    def __init__(self, reason: Reason, detail: str) -> None:
        self.defect = Defect(reason, detail[:_MAX_DETAIL])
        super().__init__(reason, detail)


def check_characters(what: str, text: str) -> None:
    """Refuse text that a Parquet string, a path or a tokenizer cannot carry.

    Raises:
        DefectError: nul_character or lone_surrogate, naming `what` (a short noun such as "answer").
    """
    if "\0" in text:
        raise DefectError("nul_character", f"{what} at character {text.index(chr(0))}")
    if text.isascii():  # costs nothing, and is true of most rows
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DefectError("lone_surrogate", f"{what} at character {error.start}") from error
