from __future__ import annotations

import numpy as np
import pytest

from xmas_job.demo.drawing import Scene
from xmas_job.demo.questions import FAMILIES, arithmetic_questions, general_questions

ONE = Scene("star", "red", "large", "dotted", ("bottom left",), "red")
THREE = Scene("cross", "blue", "small", "solid", ("top left", "top right", "bottom right"), "green")
ANSWERS = {
    "colour": ("red", "blue"),
    "shape": ("star", "cross"),
    "count": ("1", "3"),
    "position": ("bottom left", None),
    "size": ("large", "small"),
    "same_colour": ("yes", "no"),
    "pattern": ("dotted", "solid"),
}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_family_answers_from_the_scene(family) -> None:
    for scene, answer in zip((ONE, THREE), ANSWERS[family.name], strict=True):
        if answer is None:
            assert not family.fits(scene)
            with pytest.raises(ValueError, match="cannot be asked"):
                family.ask(scene, np.random.default_rng(0))
        else:
            assert family.fits(scene)
            assert family.ask(scene, np.random.default_rng(0)).answer == answer


def test_families_are_seven_and_make_the_whole_pool() -> None:
    assert [family.share for family in FAMILIES] == [0.60, 0.20, 0.08, 0.05, 0.04, 0.02, 0.01]


def test_pretraining_never_asks_in_the_words_of_a_family() -> None:
    rng = np.random.default_rng(0)
    asked = {question.text for _ in range(300) for scene in (ONE, THREE) for question in general_questions(scene, rng)}
    wordings = {
        wording.format(kind=scene.kind) for family in FAMILIES for wording in family.wordings for scene in (ONE, THREE)
    }
    assert len(asked) > 30
    assert not asked & wordings


def test_caption_comes_last_and_tells_everything() -> None:
    *others, caption = general_questions(THREE, np.random.default_rng(0))
    assert len(others) == 3
    assert caption.answer == "3 small blue solid cross , top left , top right , bottom right , green border"


def test_arithmetic_is_right_and_never_repeats() -> None:
    questions = arithmetic_questions()
    assert len({question.text for question in questions}) == len(questions)
    for question in questions:
        _, _, first, operator, second = question.text.rstrip("?").split()
        sign = {"plus": 1, "minus": -1}[operator]
        assert int(question.answer) == int(first) + sign * int(second) >= 0
