"""The demo's image-question data as teams have it: `data.json` in LLaVA's form beside a folder of pictures.

Owns the mixture (families, near-duplicates, text-only and broken rows) and the files. Refuses to own the landing zone.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from xmas_job.demo.drawing import draw_scene, pick, render
from xmas_job.demo.faults import FAULTS
from xmas_job.demo.questions import FAMILIES, Question, arithmetic_questions
from xmas_job.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

    from xmas_job.demo.drawing import Scene, Split
    from xmas_job.demo.questions import Family

    Row = dict[str, Any]

MIN_EXAMPLES, MAX_EXAMPLES = 60, 10_000
TEXT_ONLY_SHARE = 0.06
SHARED_PICTURE_RATE = 0.3  # gives about 1.5 questions a picture
NEAR_DUPLICATE_RATE = 0.3  # only in the frequent families
MULTI_TURN_RATE = 0.1  # only in the frequent families
FREQUENT_SHARE = 0.2
NUM_TWO_PICTURE_ROWS = 2
NUM_DISGUISED_ROWS = 2
NUM_LISTED_PICTURES = 3  # `image` as a list of one
JPEG_QUALITY, WORN_JPEG_QUALITIES = 90, (50, 85)


@dataclass(frozen=True, slots=True)
class _Picture:
    name: str  # relative to the dataset's folder
    scene: Scene
    pixels: Image


def write_pool(directory: Path, *, num_examples: int = 2000, seed: int = 0) -> dict[str, int]:
    """Write `data.json` and `images/` with exactly `num_examples` rows, broken and repeated ones among them.

    The same arguments give the same bytes.

    Returns:
        Numbers of what was written: rows, text_only, broken, repeated (equal to an earlier row), near_duplicates,
        pictures, and one for every family by its name; broken and repeated rows belong to the most frequent family.

    Raises:
        UsageError: `num_examples` is outside 60 to 10,000.
    """
    if not MIN_EXAMPLES <= num_examples <= MAX_EXAMPLES:
        raise UsageError(
            f"The demo pool cannot have {num_examples} examples.", f"Ask for {MIN_EXAMPLES} to {MAX_EXAMPLES}."
        )
    rng = np.random.default_rng([seed, 0])
    num_text_only = round(TEXT_ONLY_SHARE * num_examples)
    num_repeated = num_examples // 200
    num_by_family = _split_by_share(num_examples - num_text_only)
    album = _Album(directory, "pool", rng)
    rows = _disguised_rows(album) + _broken_rows(album) + _two_picture_rows(album)
    num_left = Counter(num_by_family) - Counter(row["task_name"] for row in rows) - Counter({_FIRST.name: num_repeated})
    rows += [_family_row(album, _FAMILY_BY_NAME[name]) for name in rng.permutation(list(num_left.elements()))]
    rows += [row for row in rows[::-1] if row["task_name"] == _FIRST.name][:num_repeated]
    rows += _text_only_rows(rng, num_text_only)
    rows = [rows[index] for index in rng.permutation(len(rows))]
    _wrap_some_pictures(rows)
    _write_rows(directory, rows)
    return {
        "rows": len(rows),
        "text_only": num_text_only,
        "broken": len(FAULTS),
        "repeated": num_repeated,
        "near_duplicates": album.num_near_duplicates,
        "pictures": album.num_pictures,
        **num_by_family,
    }


def write_heldout(directory: Path, *, num_per_family: int = 60, seed: int = 0) -> dict[str, int]:
    """Write `num_per_family` single questions of every family, each on a picture of its own that no pool holds."""
    album = _Album(directory, "heldout", np.random.default_rng([seed, 1]))
    rows = [_new_row(album, family)[0] for family in FAMILIES for _ in range(num_per_family)]
    _write_rows(directory, rows)
    return {"rows": len(rows), "pictures": album.num_pictures, **{family.name: num_per_family for family in FAMILIES}}


_FAMILY_BY_NAME = {family.name: family for family in FAMILIES}
_FIRST, _SECOND = FAMILIES[:2]


class _Album:
    """The pictures written so far, to be asked about again; never the same bytes, nor the same question, twice."""

    def __init__(self, directory: Path, split: Split, rng: np.random.Generator) -> None:
        self.directory = directory
        self.rng = rng
        self.num_pictures = 0
        self.num_near_duplicates = 0
        self._split = split
        self._contents: set[bytes] = set()
        self._pictures: list[_Picture] = []
        self._asked: set[tuple[str, str]] = set()
        (directory / "images").mkdir(parents=True)

    def new_picture(self, family: Family, suffix: str | None = None) -> _Picture:
        """A picture that the family can ask about; two in three are JPEG, the others PNG, some with a palette."""
        suffix = suffix or pick(self.rng, (".jpg", ".jpg", ".png"))
        while True:
            scene = draw_scene(self.rng, self._split)
            if family.fits(scene) and (picture := self._save(scene, render(scene, self.rng), suffix)):
                return picture

    def some_picture(self, family: Family) -> _Picture:
        """An earlier picture, a near-duplicate of one, or a new one."""
        draw = self.rng.random()
        fitting = [picture for picture in self._pictures if family.fits(picture.scene)]
        if fitting and draw < SHARED_PICTURE_RATE:
            return pick(self.rng, fitting)
        if fitting and draw < SHARED_PICTURE_RATE + NEAR_DUPLICATE_RATE and family.share >= FREQUENT_SHARE:
            return self._near_duplicate(pick(self.rng, fitting))
        picture = self.new_picture(family)
        self._pictures.append(picture)
        return picture

    def ask(self, family: Family, picture: _Picture) -> Question | None:
        """A question that was not yet asked about this picture, or None."""
        question = family.ask(picture.scene, self.rng)
        if (picture.name, question.text) in self._asked:
            return None
        self._asked.add((picture.name, question.text))
        return question

    def _near_duplicate(self, original: _Picture) -> _Picture:
        """The same content again: either the same pixels, worn by JPEG, or moved by a pixel on another ground."""
        self.num_near_duplicates += 1
        while True:
            worn = self.rng.random() < 0.5
            pixels = original.pixels if worn else render(original.scene, self.rng)
            quality = int(self.rng.integers(*WORN_JPEG_QUALITIES))
            if picture := self._save(original.scene, pixels, ".jpg", quality):
                return picture

    def _save(self, scene: Scene, pixels: Image, suffix: str, quality: int = JPEG_QUALITY) -> _Picture | None:
        """Write a picture, unless the album holds the same bytes already."""
        buffer = io.BytesIO()
        if suffix == ".png":
            stored = pixels.convert("P") if self.num_pictures % 4 == 0 else pixels
            stored.save(buffer, format="PNG")
        else:
            pixels.save(buffer, format="JPEG", quality=quality)
        content = buffer.getvalue()
        if content in self._contents:
            return None
        self._contents.add(content)
        picture = _Picture(f"images/{self.num_pictures:06d}{suffix}", scene, pixels)
        (self.directory / picture.name).write_bytes(content)
        self.num_pictures += 1
        return picture


def _split_by_share(num_examples: int) -> dict[str, int]:
    """Rows of every family; the most frequent one takes what rounding leaves."""
    num_by_family = {family.name: max(1, round(family.share * num_examples)) for family in FAMILIES}
    num_by_family[FAMILIES[0].name] += num_examples - sum(num_by_family.values())
    return num_by_family


def _row(task_name: str, images: list[str], questions: list[Question]) -> Row:
    turns = []
    for index, question in enumerate(questions):
        placeholders = "<image>\n" * len(images) if index == 0 else ""
        turns.append({"from": "human", "value": placeholders + question.text})
        turns.append({"from": "gpt", "value": question.answer})
    picture = {} if not images else {"image": images[0] if len(images) == 1 else images}
    return {**picture, "task_name": task_name, "conversations": turns}


def _new_row(album: _Album, family: Family, suffix: str | None = None) -> tuple[Row, _Picture]:
    """One question on a new picture that no other row shows."""
    picture = album.new_picture(family, suffix)
    return _row(family.name, [picture.name], [family.ask(picture.scene, album.rng)]), picture


def _family_row(album: _Album, family: Family) -> Row:
    while (question := album.ask(family, picture := album.some_picture(family))) is None:
        pass
    questions = [question]
    if family.share >= FREQUENT_SHARE and album.rng.random() < MULTI_TURN_RATE:
        follow_up = _SECOND if family is _FIRST else _FIRST
        questions += filter(None, [album.ask(follow_up, picture)])
    return _row(family.name, [picture.name], questions)


def _text_only_rows(rng: np.random.Generator, num_rows: int) -> list[Row]:
    questions = arithmetic_questions()
    return [_row("arithmetic", [], [questions[index]]) for index in rng.permutation(len(questions))[:num_rows]]


def _broken_rows(album: _Album) -> list[Row]:
    rows = []
    for fault in FAULTS:
        row, picture = _new_row(album, _FIRST, ".jpg")
        fault(row, album.directory / picture.name)
        rows.append(row)
    return rows


def _disguised_rows(album: _Album) -> list[Row]:
    """PNG files called .jpg: ugly, but every decoder reads them."""
    rows = []
    for _ in range(NUM_DISGUISED_ROWS):
        row, picture = _new_row(album, _FIRST, ".png")
        row["image"] = picture.name.replace(".png", ".jpg")
        (album.directory / picture.name).rename(album.directory / row["image"])
        rows.append(row)
    return rows


def _two_picture_rows(album: _Album) -> list[Row]:
    rows = []
    for _ in range(NUM_TWO_PICTURE_ROWS):
        first, second = (album.new_picture(_SECOND) for _ in range(2))
        answer = "yes" if first.scene.kind == second.scene.kind else "no"
        question = Question("Do both pictures show the same shape?", answer)
        rows.append(_row(_SECOND.name, [first.name, second.name], [question]))
    return rows


def _wrap_some_pictures(rows: list[Row]) -> None:
    """Give a few rows their one picture as a list of one, as some exporters do."""
    for row in [row for row in rows if isinstance(row.get("image"), str)][:NUM_LISTED_PICTURES]:
        row["image"] = [row["image"]]


def _write_rows(directory: Path, rows: list[Row]) -> None:
    """Write `data.json`; ids are of mixed types and not unique, as in the public mixtures."""
    numbered = []
    for index, row in enumerate(rows):
        number = index - 1 if index % 100 == 99 else index
        numbered.append({"id": number if number % 7 == 0 else f"{number:06d}", **row})
    text = json.dumps(numbered, ensure_ascii=False, indent=1)
    (directory / "data.json").write_text(text + "\n", encoding="utf-8")
