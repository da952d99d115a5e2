"""What goes wrong with real image-text data, one function a fault, each applied to one freshly written row.

Owns the damage. Refuses to own what the line says about it (the reason codes of validation).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Row = dict[str, Any]
    Fault = Callable[[Row, Path], None]


def _lose_file(_row: Row, picture: Path) -> None:
    picture.unlink()


def _truncate(_row: Row, picture: Path) -> None:
    content = picture.read_bytes()
    picture.write_bytes(content[: len(content) // 2])


def _save_error_page(_row: Row, picture: Path) -> None:
    picture.write_text("<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>\n", encoding="utf-8")


def _empty_file(_row: Row, picture: Path) -> None:
    picture.write_bytes(b"")


def _empty_answer(row: Row, _picture: Path) -> None:
    row["conversations"][-1]["value"] = ""


def _add_placeholder(row: Row, _picture: Path) -> None:
    row["conversations"][0]["value"] = "<image>\n" + row["conversations"][0]["value"]


FAULTS: tuple[Fault, ...] = (
    _lose_file,
    _lose_file,
    _truncate,
    _truncate,
    _save_error_page,
    _empty_file,
    _empty_answer,
    _empty_answer,
    _add_placeholder,
    _add_placeholder,
)
