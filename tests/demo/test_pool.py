from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from xmas_job.demo.pool import write_heldout, write_pool
from xmas_job.errors import UsageError


def digests(directory: Path) -> dict[str, str]:
    """Every file's digest by its relative path."""
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def read_rows(directory: Path) -> list[dict[str, Any]]:
    return json.loads((directory / "data.json").read_text(encoding="utf-8"))


def image_names(row: dict[str, Any]) -> list[str]:
    names = row.get("image", [])
    return [names] if isinstance(names, str) else names


def defect(row: dict[str, Any], directory: Path) -> str | None:
    """What is wrong with a row, found as a trainer would find it."""
    turns = row["conversations"]
    if not all(turn["value"].strip() for turn in turns):
        return "empty answer"
    if sum(turn["value"].count("<image>") for turn in turns) != len(image_names(row)):
        return "placeholders"
    for name in image_names(row):
        path = directory / name
        if not path.is_file():
            return "missing"
        if path.stat().st_size == 0:
            return "zero bytes"
        try:
            Image.open(path).load()
        except OSError:
            return "html" if path.read_bytes().startswith(b"<!DOCTYPE") else "truncated"
    return None


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    directory = tmp_path_factory.mktemp("pool")
    return directory, write_pool(directory)


@pytest.fixture(scope="session")
def heldout(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    directory = tmp_path_factory.mktemp("heldout")
    return directory, write_heldout(directory)


def test_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("one", 5), ("again", 5), ("other", 6)):
        write_pool(tmp_path / name, num_examples=60, seed=seed)
        write_heldout(tmp_path / f"{name}_heldout", num_per_family=2, seed=seed)
    for kind in ("", "_heldout"):
        one, again, other = (digests(tmp_path / f"{name}{kind}") for name in ("one", "again", "other"))
        assert one == again
        assert one["data.json"] != other["data.json"]


def test_families_have_their_shares(pool: tuple[Path, dict[str, int]]) -> None:
    directory, counts = pool
    found = Counter(row["task_name"] for row in read_rows(directory))
    # 6 % of 2,000 are text-only; 60, 20, 8, 5, 4, 2 and 1 % of the other 1,880 are rounded.
    expected = {
        "colour": 1128,
        "shape": 376,
        "count": 150,
        "position": 94,
        "size": 75,
        "same_colour": 38,
        "pattern": 19,
    }
    assert found == {**expected, "arithmetic": 120}
    assert {name: counts[name] for name in expected} == expected
    assert counts["rows"] == 2000
    assert counts["text_only"] == 120


def test_text_only_rows_have_no_image_and_all_others_do(pool: tuple[Path, dict[str, int]]) -> None:
    for row in read_rows(pool[0]):
        assert ("image" in row) == (row["task_name"] != "arithmetic")
        first, *later = [turn["value"] for turn in row["conversations"]]
        assert first.startswith("<image>\n") == ("image" in row)
        assert not any("<image>" in text for text in later)
        assert [turn["from"] for turn in row["conversations"]] == ["human", "gpt"] * (len(row["conversations"]) // 2)


@pytest.mark.parametrize("num_examples", [60, 2000])
def test_broken_rows_are_there_and_counted(num_examples: int, tmp_path: Path) -> None:
    counts = write_pool(tmp_path / "pool", num_examples=num_examples)
    rows = read_rows(tmp_path / "pool")
    defects = Counter(defect(row, tmp_path / "pool") for row in rows)
    assert len(rows) == num_examples
    assert defects.pop(None) == num_examples - counts["broken"]
    assert defects == {
        "missing": 2,
        "truncated": 2,
        "html": 1,
        "zero bytes": 1,
        "empty answer": 2,
        "placeholders": 2,
    }


def test_sound_examples_are_distinct_but_for_the_counted_repeats(pool: tuple[Path, dict[str, int]]) -> None:
    directory, counts = pool
    files = digests(directory)
    sound = [row for row in read_rows(directory) if defect(row, directory) is None]
    contents = {(json.dumps(row["conversations"]), tuple(files[name] for name in image_names(row))) for row in sound}
    assert counts["repeated"] == 10
    assert len(contents) == len(sound) - counts["repeated"]


def test_pictures_are_shared_and_nearly_duplicated(pool: tuple[Path, dict[str, int]]) -> None:
    directory, counts = pool
    uses = Counter(name for row in read_rows(directory) for name in image_names(row))
    assert 1.25 < sum(uses.values()) / len(uses) < 1.6
    assert counts["pictures"] == len(uses)
    assert len(list((directory / "images").iterdir())) == len(uses) - 2  # two files of broken rows are missing
    assert 0.2 < counts["near_duplicates"] / counts["rows"] < 0.3


def test_near_duplicates_never_have_the_same_bytes(tmp_path: Path) -> None:
    counts = write_pool(tmp_path, num_examples=4000)
    contents = Counter(path.read_bytes() for path in (tmp_path / "images").iterdir())
    assert counts["near_duplicates"] > 800
    assert max(contents.values()) == 1


def test_rows_are_as_untidy_as_real_ones(pool: tuple[Path, dict[str, int]]) -> None:
    directory, _ = pool
    rows = read_rows(directory)
    ids = [row["id"] for row in rows]
    images = [row["image"] for row in rows if "image" in row]
    formats = Counter(
        (Image.open(path).format, Image.open(path).mode, path.suffix)
        for row in rows
        if defect(row, directory) is None
        for path in (directory / name for name in image_names(row))
    )
    assert {type(row_id) for row_id in ids} == {int, str}
    assert len({str(row_id).zfill(6) for row_id in ids}) == len(rows) - 20
    assert Counter(len(image) for image in images if isinstance(image, list)) == {1: 3, 2: 2}
    assert formats["PNG", "RGB", ".jpg"] + formats["PNG", "P", ".jpg"] >= 2
    assert {("JPEG", "RGB", ".jpg"), ("PNG", "RGB", ".png"), ("PNG", "P", ".png")} < set(formats)
    multi_turn = [row["task_name"] for row in rows if len(row["conversations"]) > 2]
    assert len(multi_turn) > 80
    assert set(multi_turn) == {"colour", "shape"}


@pytest.mark.parametrize("num_examples", [0, 59, 10_001])
def test_pool_refuses_a_size_it_cannot_fill(num_examples: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"{num_examples} examples"):
        write_pool(tmp_path / "pool", num_examples=num_examples)


def test_heldout_is_balanced_sound_and_short(heldout: tuple[Path, dict[str, int]]) -> None:
    directory, counts = heldout
    rows = read_rows(directory)
    assert set(Counter(row["task_name"] for row in rows).values()) == {60}
    assert counts["rows"] == len(rows) == 7 * 60
    assert not any(defect(row, directory) for row in rows)
    for row in rows:
        assert len(row["conversations"]) == 2
        assert 1 <= len(row["conversations"][1]["value"].split()) <= 2
    assert len({row["image"] for row in rows}) == len(rows)


def test_heldout_shares_no_picture_and_no_question_on_a_picture_with_the_pool(
    pool: tuple[Path, dict[str, int]], heldout: tuple[Path, dict[str, int]]
) -> None:
    shown = [
        {Image.open(path).convert("RGB").tobytes() for path in (directory / "images").glob("*.png")}
        for directory, _ in (pool, heldout)
    ]
    assert min(len(pictures) for pictures in shown) > 50
    assert not shown[0] & shown[1]
    asked = [
        {
            (name_digest, row["conversations"][0]["value"])
            for row in read_rows(directory)
            for name_digest in (files.get(name) for name in image_names(row))
        }
        for directory, files in ((directory, digests(directory)) for directory, _ in (pool, heldout))
    ]
    assert not asked[0] & asked[1]
    assert not set(digests(pool[0]).values()) & set(digests(heldout[0]).values())
