"""Every prefix of a ranking against a water-filling written down independently, over random shapes of groups."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from xmas_job.core.ranking import rank_within_groups, water_filling_order, weave_proportionally

Integers = NDArray[np.int64]


def rows_of(groups: list[int]) -> dict[int, list[int]]:
    members: dict[int, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    return members


def water_filling(members: dict[int, list[int]], budget: int) -> dict[int, int]:
    """How many each group gives: the level rises while every group can be filled to it; what is left goes one by
    one to the largest groups that have more, equal sizes by their smallest row."""
    level = 0
    while sum(min(len(rows), level + 1) for rows in members.values()) <= budget and level < budget:
        level += 1
    given_away = {group: min(len(rows), level) for group, rows in members.items()}
    rest = budget - sum(given_away.values())
    above = [group for group, rows in members.items() if len(rows) > level]
    for group in sorted(above, key=lambda group: (-len(members[group]), min(members[group])))[:rest]:
        given_away[group] += 1
    return given_away


shapes = st.lists(st.integers(1, 9), min_size=1, max_size=7).flatmap(
    lambda sizes: st.permutations([7 * group - 3 for group, size in enumerate(sizes) for _ in range(size)])
)


@given(groups=shapes, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_every_prefix_is_the_water_filling_of_its_size(groups: list[int], seed: int) -> None:
    keys = np.random.default_rng(seed).integers(0, 4, len(groups))  # many ties
    rows = np.arange(len(groups))
    order = water_filling_order(np.array(groups), rank_within_groups(np.array(groups), (keys, rows)))
    members = rows_of(groups)
    in_order = {group: sorted(found, key=lambda row: (keys[row], row)) for group, found in members.items()}
    for budget in range(len(groups) + 1):
        expected = {row for group, count in water_filling(members, budget).items() for row in in_order[group][:count]}
        assert set(order[:budget].tolist()) == expected, budget


@given(groups=shapes)
@settings(max_examples=60, deadline=None)
def test_order_inside_a_group_is_that_of_its_ranks(groups: list[int]) -> None:
    keys = np.arange(len(groups))[::-1] % 3
    order = water_filling_order(np.array(groups), rank_within_groups(np.array(groups), (keys, np.arange(len(groups)))))
    for group, rows in rows_of(groups).items():
        inside = [row for row in order.tolist() if groups[row] == group]
        assert inside == sorted(rows, key=lambda row: (keys[row], row))


def test_water_filling_by_hand() -> None:
    # Group 5 has rows 1, 2, 4, 6; group 9 has 0, 3; group 7 has 5, 8; group 1 has 7. Ranks are the row order.
    groups = np.array([9, 5, 5, 9, 5, 7, 5, 1, 7])
    order = water_filling_order(groups, rank_within_groups(groups, (np.arange(9),)))
    # Round 0: sizes 4, 2, 2, 1, and of the two pairs the one with row 0 first. Round 1: 5, 9, 7. Then 5, 5.
    assert order.tolist() == [1, 0, 5, 7, 2, 3, 8, 4, 6]


def test_ranks_in_groups_by_hand_most_significant_key_first() -> None:
    groups = np.array([2, 0, 2, 0, 2])
    first, second = np.array([1.0, 5.0, 0.0, 5.0, 1.0]), np.array([9, 4, 8, 3, 7])
    assert rank_within_groups(groups, (first, second)).tolist() == [2, 1, 0, 0, 1]
    assert rank_within_groups(groups, (second, first)).tolist() == [2, 1, 1, 0, 0]


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.int8])
def test_groups_of_any_integer_type(dtype: type[np.integer]) -> None:
    groups = np.array([3, 3, 3, -1], dtype=dtype)
    order = water_filling_order(groups, rank_within_groups(groups, (np.array([2, 1, 0, 0]),)))
    assert order.tolist() == [2, 3, 1, 0]
    assert order.dtype == np.int64


def test_no_rows_give_an_empty_order() -> None:
    nothing: Integers = np.empty(0, dtype=np.int64)
    ranks = rank_within_groups(nothing, (nothing,))
    assert ranks.shape == (0,)
    assert ranks.dtype == np.int64
    assert water_filling_order(nothing, ranks).shape == (0,)
    assert weave_proportionally(nothing, nothing).shape == (0,)


@given(num_main=st.integers(0, 40), num_stratum=st.integers(0, 40))
@settings(max_examples=150, deadline=None)
def test_every_prefix_holds_the_share_of_the_stratum(num_main: int, num_stratum: int) -> None:
    main = np.arange(num_main, dtype=np.int64)[::-1].copy()
    stratum = 100 + np.arange(num_stratum, dtype=np.int64)[::-1].copy()
    woven = weave_proportionally(main, stratum)
    total = num_main + num_stratum
    assert woven.size == total
    for length in range(total + 1):
        share = Fraction(num_stratum, total) if total else Fraction(0)
        assert (woven[:length] >= 100).sum() == floor(length * share)
    # Both keep their own order.
    assert woven[woven < 100].tolist() == main.tolist()
    assert woven[woven >= 100].tolist() == stratum.tolist()


def test_weaving_by_hand() -> None:
    woven = weave_proportionally(np.array([0, 1, 2]), np.array([8, 9]))
    # floor(2n / 5) for n = 1..5 is 0, 0, 1, 1, 2.
    assert woven.tolist() == [0, 1, 8, 2, 9]
