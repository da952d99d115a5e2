"""What every conversation must hold, whatever its format: roles take turns, answers exist, placeholders match images.

Owns the rules from (role, text) messages to turns. Refuses to own where messages stand in a row (the formats).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from xmas_job.data.defects import DefectError, check_characters
from xmas_job.data.examples import IMAGE_PLACEHOLDER, Role, Turn, normalise_text
from xmas_job.data.readers.json_rows import kind_of

_ROLES: Final[dict[str, Role]] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_ALTERNATING: Final[list[Role]] = ["user", "assistant"]


def build_turns(messages: Sequence[tuple[Any, Any]], num_images: int) -> tuple[Turn, ...]:
    """Turn raw messages into an optional system turn and then questions and answers in turn.

    One answer before the first question is dropped, as LLaVA's loaders do. One image without any placeholder
    belongs to the first question; in every other case placeholders and images must be equal in number.
    Differs: LLaVA's loader accepts a last question without an answer and trains on nothing; here it is a defect.

    Args:
        messages: (role as written, text as written); other values than strings are a defect.
        num_images: images the row names.

    Raises:
        DefectError: with the rule that is broken and the place of the turn.
    """
    turns = _build_turns(messages)
    first = 1 if turns and turns[0].role == "system" else 0
    if len(turns) > first and turns[first].role == "assistant":
        del turns[first]
    _check_order(turns, first)
    num_placeholders = sum([num_images for _, _, num_images in turns])
    if num_images == 1 and num_placeholders == 0:
        turns[first] = Turn("user", turns[first].text, 1)
    elif num_placeholders != num_images:
        raise DefectError("placeholder_mismatch", f"{num_placeholders} placeholders, {num_images} images")
    _check_contents(turns)
    return tuple(turns)


def _build_turns(messages: Sequence[tuple[Any, Any]]) -> list[Turn]:
    turns = []
    for place, (written, text) in enumerate(messages):
        if type(text) is not str or type(written) is not str:
            raise DefectError("bad_turn", f"turn {place}: `from` is {kind_of(written)}, `value` is {kind_of(text)}")
        role = _ROLES.get(written)
        if role is None:
            raise DefectError("unknown_role", f"turn {place}: {written!r:.100}")
        if "\0" in text or not text.isascii():
            check_characters(f"turn {place}", text)
        if "<" in text or "\r" in text:
            turns.append(Turn(role, normalise_text(text), text.count(IMAGE_PLACEHOLDER)))
        else:  # most turns
            turns.append(Turn(role, text.strip()))
    return turns


def _check_order(turns: Sequence[Turn], first: int) -> None:
    if len(turns) == first:
        raise DefectError("no_conversation", "no question")
    roles = [role for role, _, _ in turns[first:]]
    if len(roles) % 2 == 0 and roles == _ALTERNATING * (len(roles) // 2):
        return
    expected: Role = "user"
    for place, role in enumerate(roles, first):
        if role != expected:
            raise DefectError("not_alternating", f"turn {place}: {role}, expected {expected}")
        expected = "assistant" if expected == "user" else "user"
    raise DefectError("missing_answer", f"{len(turns)} turns")


def _check_contents(turns: Sequence[Turn]) -> None:
    for place, (role, text, num_images) in enumerate(turns):
        if num_images and role != "user":
            raise DefectError("placeholder_outside_question", f"turn {place}: {role}")
        if not text and role == "assistant":
            raise DefectError("empty_answer", f"turn {place}")
        if not text and role == "user" and not num_images:
            raise DefectError("empty_question", f"turn {place}")
