import io
import json
from typing import Any

import pytest

from xmas_job.data.examples import Turn
from xmas_job.data.readers import BrokenRow, Row
from xmas_job.data.readers.llava import read

ASK, ANSWER = {"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}
TEXT = {"from": "human", "value": "Why?"}


def one(record: Any, name: str = "pets") -> Row | BrokenRow:
    (row,) = read(io.BytesIO(json.dumps([record]).encode()), name=name)
    return row


def row(**changes: Any) -> Row:
    found = one({"id": "7", "image": "coco/a.jpg", "conversations": [ASK, ANSWER]} | changes)
    assert isinstance(found, Row), found
    return found


def reason(record: Any) -> str:
    found = one(record)
    assert isinstance(found, BrokenRow), found
    return found.defect.reason


def test_llava_row_becomes_normalised_turns_with_their_images() -> None:
    assert row() == Row(0, "7", "coco", ("coco/a.jpg",), (Turn("user", "What?", 1), Turn("assistant", "A cat.")))


@pytest.mark.parametrize(
    ("written", "orig_id"),
    [
        ('"7"', "7"),
        ("7", "7"),
        ("7.0", "7.0"),
        ("1e3", "1e3"),
        ("00000000000000000000001"[:1] + "." + "1" * 30, "0." + "1" * 30),
        ("9" * 5000, "9" * 5000),
        ("null", None),
        ('""', ""),
        ("true", "true"),
        ('["a", 1]', '["a", "1"]'),
    ],
)
def test_id_of_any_type_is_kept_as_written(written: str, orig_id: str | None) -> None:
    data = f'[{{"id": {written}, "conversations": {json.dumps([TEXT, ANSWER])}}}]'
    (found,) = read(io.BytesIO(data.encode()), name="pets")
    assert isinstance(found, Row)
    assert found.orig_id == orig_id


def test_repeated_mixed_and_missing_ids_keep_every_row_in_place() -> None:
    records = [{"id": id_, "conversations": [TEXT, ANSWER]} for id_ in ("1", 1, 1.0, "1")]
    records.append({"conversations": [TEXT, ANSWER]})
    found = list(read(io.BytesIO(json.dumps(records).encode()), name="pets"))
    assert [(each.source_row, each.orig_id) for each in found if isinstance(each, Row)] == [
        (0, "1"),
        (1, "1"),
        (2, "1.0"),
        (3, "1"),
        (4, None),
    ]


@pytest.mark.parametrize("image", [None, "", []])
def test_row_without_image_is_text_only(image: Any) -> None:
    found = row(image=image, conversations=[TEXT, ANSWER])
    assert (found.image_paths, found.source) == ((), "text")
    assert found.turns[0].num_images == 0


def test_missing_image_field_is_text_only() -> None:
    found = one({"conversations": [TEXT, ANSWER]})
    assert isinstance(found, Row)
    assert found.image_paths == ()


def test_image_list_follows_the_placeholders_of_the_turns() -> None:
    two = {"from": "human", "value": "<image><image> Same?"}
    found = row(image=["a/1.png", "./a//2.png", "3.png"], conversations=[two, ANSWER, ASK, ANSWER])
    assert found.image_paths == ("a/1.png", "a/2.png", "3.png")
    assert [turn.num_images for turn in found.turns] == [2, 0, 1, 0]


@pytest.mark.parametrize(
    ("fields", "source"),
    [
        ({"task_name": "vqa+1", "source": "b", "dataset": "c"}, "vqa+1"),
        ({"task_name": "", "source": "b", "dataset": "c"}, "b"),
        ({"task_name": 3, "dataset": "c"}, "c"),
        ({}, "coco"),
        ({"image": "a.jpg"}, "pets"),
        ({"image": "", "conversations": [TEXT, ANSWER]}, "text"),
        ({"image": "", "conversations": [TEXT, ANSWER], "source": "b"}, "b"),
    ],
)
def test_source_is_the_first_that_is_there(fields: dict[str, Any], source: str) -> None:
    assert row(**fields).source == source


def bad(**changes: Any) -> dict[str, Any]:
    return {"id": "7", "image": "coco/a.jpg", "conversations": [ASK, ANSWER]} | changes


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ("a string", "not_an_object"),
        ([1], "not_an_object"),
        (None, "not_an_object"),
        ({}, "no_conversation"),
        (bad(conversations=[]), "no_conversation"),
        (bad(conversations={"from": "human"}), "no_conversation"),
        (bad(conversations=["hello"]), "bad_turn"),
        (bad(conversations=[ASK, {"from": "gpt"}]), "bad_turn"),
        (bad(conversations=[ASK, {"from": "gpt", "value": 5}]), "bad_turn"),
        (bad(conversations=[ASK, {"from": None, "value": "x"}]), "bad_turn"),
        (bad(conversations=[ASK, {"from": "bing", "value": "x"}]), "unknown_role"),
        (bad(conversations=[ASK, {"from": "gpt", "value": " \r\n"}]), "empty_answer"),
        (bad(conversations=[ASK, {"from": "gpt", "value": "\0"}]), "nul_character"),
        (bad(conversations=[ASK, {"from": "gpt", "value": "\ud83d"}]), "lone_surrogate"),
        (bad(id="\udc80"), "lone_surrogate"),
        (bad(source="a\0b"), "nul_character"),
        (bad(image=5), "bad_image_field"),
        (bad(image=False), "bad_image_field"),
        (bad(image={"path": "a.jpg"}), "bad_image_field"),
        (bad(image=["a.jpg", None]), "bad_image_field"),
        (bad(image=["./"]), "bad_image_field"),
        (bad(image="../a.jpg"), "image_path_outside_root"),
        (bad(image="http://host/a.jpg"), "image_is_url"),
        (bad(image="/etc/passwd"), "image_path_absolute"),
        (bad(image="a\0.jpg"), "nul_character"),
        (bad(image="a\ud800.jpg"), "lone_surrogate"),
        (bad(video="a.mp4"), "unsupported_media"),
        (bad(image=["a.jpg", "b.jpg"]), "placeholder_mismatch"),
        (bad(image=None), "placeholder_mismatch"),
    ],
)
def test_broken_row_is_one_defect_with_its_reason(record: Any, expected: str) -> None:
    assert reason(record) == expected


def test_broken_rows_keep_their_place_among_whole_ones() -> None:
    found = list(read(io.BytesIO(json.dumps([bad(), "x", bad(), {}]).encode()), name="pets"))
    assert [(type(each), each.source_row) for each in found] == [(Row, 0), (BrokenRow, 1), (Row, 2), (BrokenRow, 3)]


def test_list_and_lines_give_the_same_rows() -> None:
    records = [bad(id=1), bad(conversations=[]), {"conversations": [TEXT, ANSWER]}]
    as_list = json.dumps(records, indent=1).encode()
    as_lines = b"\r\n".join(json.dumps(record, ensure_ascii=False).encode() for record in records)
    assert list(read(io.BytesIO(as_list), name="p")) == list(read(io.BytesIO(as_lines), name="p"))


def test_surrogate_pair_written_as_escapes_is_one_character() -> None:
    data = rb'[{"conversations": [{"from": "human", "value": "\ud83d\ude00"}, {"from": "gpt", "value": "ok"}]}]'
    (found,) = read(io.BytesIO(data), name="pets")
    assert isinstance(found, Row)
    assert found.turns[0].text == "😀"
