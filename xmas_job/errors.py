"""The errors a person meets, each with its exit code and its remedy.

Owns the mapping from error to exit code (the launchers read it). Refuses to own logging and printing.
"""

from __future__ import annotations


class XmasError(Exception):
    """Base of all expected errors: one clear line, and what to do next.

    `message` names the thing and its value; `remedy` names the next command or edit.
    """

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        self.message = message
        self.remedy = remedy
        super().__init__(f"{message} {remedy}".strip())

    def __reduce__(self) -> tuple[type[XmasError], tuple[str, str]]:
        # Worker processes send their errors back by pickle; the default would join the two parts.
        return type(self), (self.message, self.remedy)


class UsageError(XmasError):
    """The request itself is wrong: an unknown key, a budget above the pool, a path that is not there."""

    exit_code = 2


class MissingInputError(UsageError):
    """An input has no record yet; the remedy names the command that builds it."""


class BadDataError(XmasError):
    """The data cannot be used: nothing left, too much quarantined, NaN in a signal."""

    exit_code = 64


class QualityGateError(XmasError):
    """The result is there but does not pass its checks; nothing is published."""

    exit_code = 65


class TryAgainError(XmasError):
    """Nothing is wrong with the request: the disk is full, another worker holds the lease."""

    exit_code = 75


class NothingToDoError(XmasError):
    """There is nothing new to work on; launchers show it as skipped."""

    exit_code = 99


def error_of(exit_code: int) -> type[XmasError]:
    """The error class with this exit code, for a failure that another process reported."""
    kinds = (UsageError, BadDataError, QualityGateError, TryAgainError, NothingToDoError)
    return next((kind for kind in kinds if kind.exit_code == exit_code), XmasError)
