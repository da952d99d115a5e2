import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmas_job.data.examples import Example, Turn, compute_uid, normalise_text
from xmas_job.data.exports.llava import write_llava
from xmas_job.data.images import ImageInfo
from xmas_job.data.readers import Row
from xmas_job.data.readers.llava import read
from xmas_job.data.validation import ExampleRow, build_example_row
from xmas_job.errors import BadDataError

IMAGES = {f"dir/{name}.png": ImageInfo(name * 64, 8, 8, "RGB", "PNG", 1) for name in "abc"}


def exported(examples: list[tuple[str | None, Example]]) -> bytes:
    stream = io.BytesIO()
    write_llava(stream, examples, image_root="landing/v1")
    return stream.getvalue()


def rows_read_back(data: bytes) -> list[ExampleRow]:
    built = [
        build_example_row(row, IMAGES, source_uri="export", image_root="landing/v1")
        for row in read(io.BytesIO(data), name="export")
        if isinstance(row, Row)
    ]
    return [row for row in built if isinstance(row, ExampleRow)]


def example(turns: tuple[Turn, ...], paths: tuple[str, ...] = ()) -> Example:
    uid = compute_uid(turns, [IMAGES[path].sha256 for path in paths])
    return Example(uid, turns, tuple(f"landing/v1/{path}" for path in paths))


SEEN = example((Turn("user", "What?", 1), Turn("assistant", "Ein Kätzchen")), ("dir/a.png",))
TOLD = example((Turn("system", "s"), Turn("user", "Why?"), Turn("assistant", "So.")))
COMPARED = example(
    (Turn("user", "Same?", 2), Turn("assistant", "No"), Turn("user", "And?", 1), Turn("assistant", "Yes")),
    ("dir/a.png", "dir/b.png", "dir/c.png"),
)


def test_export_is_what_a_llava_trainer_reads() -> None:
    assert json.loads(exported([("7", SEEN), (None, TOLD), ("7", COMPARED)])) == [
        {
            "id": "7",
            "image": "dir/a.png",
            "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Ein Kätzchen"}],
        },
        {
            "id": TOLD.uid,
            "conversations": [
                {"from": "human", "value": "s\nWhy?"},
                {"from": "gpt", "value": "So."},
            ],
        },
        {
            "id": "7",
            "image": ["dir/a.png", "dir/b.png", "dir/c.png"],
            "conversations": [
                {"from": "human", "value": "<image>\n<image>\nSame?"},
                {"from": "gpt", "value": "No"},
                {"from": "human", "value": "<image>\nAnd?"},
                {"from": "gpt", "value": "Yes"},
            ],
        },
    ]


@pytest.mark.parametrize(
    ("system", "question", "value", "read_back"),
    [
        ("Be\nkind.", Turn("user", "Same?", 2), "<image>\n<image>\nBe\nkind.\nSame?", "Be\nkind.\nSame?"),
        ("s", Turn("user", "", 1), "<image>\ns", "s"),
        ("", Turn("user", "What?", 1), "<image>\nWhat?", "What?"),
        ("<im", Turn("user", "age>?"), "<im\nage>?", "<im\nage>?"),
    ],
)
def test_system_text_opens_the_first_question_and_the_row_is_another_example(
    system: str, question: Turn, value: str, read_back: str
) -> None:
    later = (Turn("assistant", "A"), Turn("user", "And?"), Turn("assistant", "B"))
    paths = ("dir/a.png", "dir/b.png")[: question.num_images]
    original = example((Turn("system", system), question, *later), paths)
    data = exported([("7", original)])
    assert json.loads(data)[0]["conversations"] == [
        {"from": "human", "value": value},
        {"from": "gpt", "value": "A"},
        {"from": "human", "value": "And?"},
        {"from": "gpt", "value": "B"},
    ]
    turns = (Turn("user", read_back, question.num_images), *later)
    (found,) = rows_read_back(data)
    assert found.conversation == turns
    assert found.uid == example(turns, paths).uid != original.uid


def test_export_has_one_example_a_line_and_literal_bytes() -> None:
    told = '{"id": "é", "conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]}'
    seen = told.replace('"conversations"', '"image": "dir/a.png", "conversations"').replace("Why?", "<image>\\nWhy?")
    turns = (Turn("user", "Why?"), Turn("assistant", "So."))
    shown = (Turn("user", "Why?", 1), turns[1])
    data = exported([("é", example(turns)), ("é", example(shown, ("dir/a.png",)))])
    assert data == f"[\n{told},\n{seen}\n]\n".encode()


def test_export_of_nothing_is_an_empty_list() -> None:
    assert exported([]) == b"[]\n"


def test_image_outside_the_image_root_is_refused() -> None:
    with pytest.raises(BadDataError, match=r"landing/v10/a\.png of example u is not under landing/v1"):
        exported([(None, Example("u", SEEN.turns, ("landing/v10/a.png",)))])


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")).map(normalise_text)
odd = st.lists(st.sampled_from(["<image>", "<im", "\r", "\n", '"', "\\", "]", "},", "é", "\u2028"])).map("".join)
words = (texts | odd.map(normalise_text)).filter(bool)


@st.composite
def examples(draw: st.DrawFn) -> Example:
    turns: list[Turn] = []
    paths: list[str] = []
    for _ in range(draw(st.integers(1, 3))):
        shown = draw(st.lists(st.sampled_from(sorted(IMAGES)), max_size=2))
        paths += shown
        turns += [Turn("user", draw(words), len(shown)), Turn("assistant", draw(words))]
    return example(tuple(turns), tuple(paths))


@given(st.lists(examples(), max_size=4))
def test_export_without_system_turns_read_back_has_the_same_uids(originals: list[Example]) -> None:
    found = rows_read_back(exported([(None, each) for each in originals]))
    assert [each.uid for each in found] == [each.uid for each in originals]
    assert [each.orig_id for each in found] == [each.uid for each in originals]
