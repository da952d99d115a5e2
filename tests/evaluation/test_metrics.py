from __future__ import annotations

import pytest

from xmas_job.errors import BadDataError
from xmas_job.evaluation.metrics import exact_match, normalise_answer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Red\tcircle \n", "red circle"),
        ("Red.", "red"),
        ("red . ", "red"),
        ("red..", "red."),
        ("3.5", "3.5"),
        ("", ""),
    ],
)
def test_normalisation_forgives_case_space_and_one_full_stop(text, expected):
    assert normalise_answer(text) == expected


def test_exact_match_marks_each_example():
    assert exact_match(["Two.", "2", "the two", ""], ["two", "two", "two", "two"]).tolist() == [1.0, 0.0, 0.0, 0.0]


def test_answers_must_pair_with_references():
    with pytest.raises(BadDataError, match="1 answers for 2 references"):
        exact_match(["a"], ["a", "b"])


def test_an_empty_reference_is_refused_rather_than_matched():
    with pytest.raises(BadDataError, match="Reference 1 is empty"):
        exact_match(["a", ""], ["a", " ."])
