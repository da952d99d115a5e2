import pytest

from xmas_job.data.defects import DefectError
from xmas_job.data.examples import Turn
from xmas_job.data.readers.turns import build_turns


def refusal(messages: list[tuple[str, str]], num_images: int = 0) -> str:
    with pytest.raises(DefectError) as caught:
        build_turns(messages, num_images)
    return caught.value.defect.reason


def test_roles_of_both_dialects_are_understood() -> None:
    assert build_turns(
        [("system", "Be kind."), ("human", "a"), ("gpt", "b"), ("user", "c"), ("assistant", "d")], 0
    ) == (
        Turn("system", "Be kind."),
        Turn("user", "a"),
        Turn("assistant", "b"),
        Turn("user", "c"),
        Turn("assistant", "d"),
    )


def test_one_leading_answer_is_dropped() -> None:
    expected = (Turn("user", "a"), Turn("assistant", "b"))
    assert build_turns([("gpt", "Hello!"), ("human", "a"), ("gpt", "b")], 0) == expected
    assert build_turns([("system", "s"), ("gpt", ""), ("human", "a"), ("gpt", "b")], 0)[1:] == expected
    assert refusal([("gpt", "x"), ("gpt", "y"), ("human", "a"), ("gpt", "b")]) == "not_alternating"


def test_single_image_without_placeholder_belongs_to_the_first_question() -> None:
    turns = build_turns([("system", "s"), ("human", "a"), ("gpt", "b"), ("human", "c"), ("gpt", "d")], 1)
    assert [turn.num_images for turn in turns] == [0, 1, 0, 0, 0]


def test_image_alone_is_a_question() -> None:
    assert build_turns([("human", "<image>"), ("gpt", "b")], 1)[0] == Turn("user", "", 1)


@pytest.mark.parametrize(
    ("messages", "num_images", "reason"),
    [
        ([("gpt", "a")], 0, "no_conversation"),
        ([("system", "a")], 0, "no_conversation"),
        ([("human", "a")], 0, "missing_answer"),
        ([("human", "a"), ("gpt", "b"), ("human", "c")], 0, "missing_answer"),
        ([("human", "a"), ("human", "b"), ("gpt", "c")], 0, "not_alternating"),
        ([("human", "a"), ("gpt", "b"), ("system", "c")], 0, "not_alternating"),
        ([("human", " "), ("gpt", "b")], 0, "empty_question"),
        ([("human", "a"), ("gpt", "b"), ("human", ""), ("gpt", "b")], 0, "empty_question"),
        ([("human", "a"), ("gpt", "<image>")], 1, "placeholder_outside_question"),
        ([("system", "<image>"), ("human", "a"), ("gpt", "b")], 1, "placeholder_outside_question"),
        ([("human", "a"), ("gpt", "b")], 2, "placeholder_mismatch"),
        ([("human", "<image> or <image>?"), ("gpt", "b")], 1, "placeholder_mismatch"),
        ([("human", "<image>"), ("gpt", "the tag <image>")], 1, "placeholder_mismatch"),
    ],
)
def test_conversation_that_breaks_a_rule_is_refused(
    messages: list[tuple[str, str]], num_images: int, reason: str
) -> None:
    assert refusal(messages, num_images) == reason
