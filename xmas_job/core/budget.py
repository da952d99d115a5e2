"""Budgets: a percentage, a fraction or a count, and the number of examples each comes to."""

from __future__ import annotations

import re
from fractions import Fraction

from xmas_job.errors import UsageError

BUDGET_PATTERN = re.compile(r"^(?P<number>\d+(\.\d+)?|\.\d+)(?P<percent>%?)$")


def parse_budget(budget: str) -> Fraction | int:
    """A fraction of the pool ("15%", "0.15") or a count ("300").

    Raises:
        ValueError: if it is neither, or not above 0, or above 100 %.
    """
    match = BUDGET_PATTERN.match(budget)
    if match is None:
        raise ValueError(f"budget {budget!r} is not a percentage, a fraction or a count; e.g. 15%, 0.15 or 300")
    number = Fraction(match["number"])
    if number <= 0:
        raise ValueError(f"budget {budget!r} selects nothing; it must be above 0")
    if match["percent"]:
        if number > 100:
            raise ValueError(f"budget {budget!r} is above the pool (100%)")
        return number / 100
    if number < 1:
        return number
    if "." in budget:
        raise ValueError(f"budget {budget!r} is no whole number of examples; write a share as a percentage, e.g. 100%")
    return int(number)


def resolve_budget(budget: str, num_eligible: int) -> int:
    """Number of examples: floor(fraction * N) and at least 1, or the count itself.

    Raises:
        UsageError: if the count is above `num_eligible`.
    """
    parsed = parse_budget(budget)
    count = parsed if isinstance(parsed, int) else max(1, int(parsed * num_eligible))
    if count > num_eligible:
        raise UsageError(
            f"budget {budget} is above the pool: {num_eligible:,} examples are eligible.",
            f"Ask for at most {num_eligible}, or land more data.",
        )
    return count
