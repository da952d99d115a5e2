from __future__ import annotations

import pickle

import pytest

from xmas_job import errors
from xmas_job.errors import MissingInputError, UsageError, XmasError, error_of

CODES = {
    "XmasError": 1,
    "UsageError": 2,
    "MissingInputError": 2,
    "BadDataError": 64,
    "QualityGateError": 65,
    "TryAgainError": 75,
    "NothingToDoError": 99,
}
"""The launchers read these: a change breaks them."""


@pytest.mark.parametrize(("name", "code"), CODES.items())
def test_exit_codes_are_pinned(name: str, code: int) -> None:
    assert getattr(errors, name).exit_code == code


def test_every_error_has_a_pinned_code() -> None:
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, XmasError)}
    assert kinds == CODES.keys()


@pytest.mark.parametrize("name", CODES)
def test_error_crosses_a_process_boundary_whole(name: str) -> None:
    error = getattr(errors, name)("Budget 5 is above the pool.", "Ask for 4.")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (again.message, again.remedy) == ("Budget 5 is above the pool.", "Ask for 4.")
    assert str(again) == "Budget 5 is above the pool. Ask for 4."


def test_error_without_a_remedy_is_its_message() -> None:
    assert str(XmasError("It broke.")) == "It broke."


@pytest.mark.parametrize("code", [2, 64, 65, 75, 99])
def test_code_of_another_process_gives_its_error(code: int) -> None:
    assert error_of(code).exit_code == code


def test_missing_input_of_another_process_is_a_usage_error() -> None:
    assert error_of(MissingInputError.exit_code) is UsageError


@pytest.mark.parametrize("code", [1, 3, 137])
def test_unknown_code_is_no_expected_error(code: int) -> None:
    assert error_of(code) is XmasError
