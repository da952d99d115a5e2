"""Quotas by hand, and against slow definitions over random cluster shapes."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmas_job.core.allocation import proportional_quotas, softmax_quotas

sizes_and_budget = st.lists(st.integers(0, 12), min_size=1, max_size=8).flatmap(
    lambda sizes: st.tuples(st.just(sizes), st.integers(0, sum(sizes)))
)


@pytest.mark.parametrize(
    ("sizes", "budget", "expected"),
    [
        # 10 of 20: 5, 3.5, 1.5: floors 5 3 1 leave one; equal remainders go to the larger cluster.
        ([10, 7, 3], 10, [5, 4, 1]),
        # 4 of 20: 3.6, 0.2, 0.2: each holds at least one, and the four are full without a remainder.
        ([18, 1, 1], 4, [2, 1, 1]),
        # 3 of 24: 2.5, 0.25, 0.25: floors 2 0 0, ones 2 1 1 overshoot: one is taken back from the large cluster.
        ([20, 2, 2], 3, [1, 1, 1]),
        # 6 of 24: 2.75, 2.75, .25, .25: 2 2 1 1 fits exactly.
        ([11, 11, 1, 1], 6, [2, 2, 1, 1]),
        # 10 of 100: 3.8, 3.8, 1.5, 0.9: 3 3 1 and a one leave two. The last has more than its share already.
        ([38, 38, 15, 9], 10, [4, 4, 1, 1]),
        # Fewer places than clusters: the largest get one each, equal ones by number.
        ([2, 5, 5, 1], 2, [0, 1, 1, 0]),
        ([0, 3, 0], 2, [0, 2, 0]),
        ([4, 2], 6, [4, 2]),
        ([4, 2], 0, [0, 0]),
    ],
)
def test_proportional_quotas_by_hand(sizes: list[int], budget: int, expected: list[int]) -> None:
    assert proportional_quotas(np.array(sizes), budget).tolist() == expected


@given(case=sizes_and_budget)
@settings(max_examples=300, deadline=None)
def test_proportional_quotas_against_the_definition(case: tuple[list[int], int]) -> None:
    sizes, budget = case
    quotas = proportional_quotas(np.array(sizes), budget).tolist()
    assert quotas == slow_proportional(sizes, budget)
    assert sum(quotas) == budget
    assert all(0 <= quota <= size for quota, size in zip(quotas, sizes, strict=True))


def slow_proportional(sizes: list[int], budget: int) -> list[int]:
    """One place at a time, in exact fractions."""
    held = [number for number, size in enumerate(sizes) if size]
    if budget < len(held):
        favoured = sorted(held, key=lambda number: (-sizes[number], number))[:budget]
        return [int(number in favoured) for number in range(len(sizes))]
    share = [Fraction(budget * size, sum(sizes)) if size else Fraction(0) for size in sizes]
    quotas = [max(math.floor(part), int(number in held)) for number, part in enumerate(share)]
    left_over = [part - quota for part, quota in zip(share, quotas, strict=True)]
    while sum(quotas) < budget:
        best = min(
            (number for number in held if quotas[number] < sizes[number]),
            key=lambda number: (quotas[number] - share[number], -sizes[number], number),
        )
        quotas[best] += 1
    while sum(quotas) > budget:
        for number in sorted(held, key=lambda number: (left_over[number], sizes[number], number)):
            if quotas[number] > 1 and sum(quotas) > budget:
                quotas[number] -= 1
    return quotas


def test_softmax_quotas_by_hand() -> None:
    # P = 1/2, 1/3, 1/6 (temperature 1, scores ln 3, ln 2, ln 1). Of 10: round(5) = 5; of the 5 left 2/3: round(3.33)
    # is 3; then all of the 2 left.
    scores = np.log([3.0, 2.0, 1.0])
    assert softmax_quotas(scores, np.array([9, 9, 9]), 10, 1.0).tolist() == [5, 3, 2]
    # Visited by falling P, not by number; the best cluster has only 2, and what it lacks flows on: of 8, 2/3 is 5.33.
    assert softmax_quotas(scores[::-1], np.array([9, 9, 2]), 10, 1.0).tolist() == [3, 5, 2]
    # Temperature 1/2 squares the odds: 9, 4, 1. Of 10: round(6.43) = 6, of 4 left 4/5: 3, then 1.
    assert softmax_quotas(scores, np.array([9, 9, 9]), 10, 0.5).tolist() == [6, 3, 1]


def test_softmax_shortfall_goes_to_the_most_probable_with_room() -> None:
    # 9 : 1. Of 10: 9 from the first; the second has none left to give but 0: its one place goes back to the first.
    scores = np.log([9.0, 1.0])
    assert softmax_quotas(scores, np.array([12, 0]), 10, 1.0).tolist() == [10, 0]
    # Last cluster full: 8 * 1/2 = 4, then the 4 left do not fit into 1; three go back to the first.
    assert softmax_quotas(np.zeros(2), np.array([12, 1]), 8, 1.0).tolist() == [7, 1]


def test_softmax_of_far_scores_stays_a_number() -> None:
    assert softmax_quotas(np.array([1e5, 0.0, -1e5]), np.array([2, 2, 2]), 5, 0.1).tolist() == [2, 2, 1]


@given(case=sizes_and_budget, data=st.data())
@settings(max_examples=300, deadline=None)
def test_softmax_quotas_against_the_definition(case: tuple[list[int], int], data: st.DataObject) -> None:
    sizes, budget = case
    scores = data.draw(st.lists(st.integers(-20, 20), min_size=len(sizes), max_size=len(sizes)))
    quotas = softmax_quotas(np.array(scores) / 10, np.array(sizes), budget, 0.7).tolist()
    assert quotas == slow_softmax([score / 10 for score in scores], sizes, budget, 0.7)
    assert sum(quotas) == budget


@given(case=sizes_and_budget, data=st.data())
@settings(max_examples=200, deadline=None)
def test_softmax_quotas_never_fall_when_the_budget_grows(case: tuple[list[int], int], data: st.DataObject) -> None:
    sizes, budget = case
    scores = np.array(data.draw(st.lists(st.floats(-2, 2), min_size=len(sizes), max_size=len(sizes))))
    if budget < sum(sizes):
        more = softmax_quotas(scores, np.array(sizes), budget + 1, 0.3)
        assert (more >= softmax_quotas(scores, np.array(sizes), budget, 0.3)).all()


def slow_softmax(scores: list[float], sizes: list[int], budget: int, temperature: float) -> list[int]:
    """As published, with the probabilities normalised anew at every step."""
    weights = {n: math.exp(scores[n] / temperature) for n in range(len(sizes)) if sizes[n]}
    order = sorted(weights, key=lambda n: (-scores[n], n))
    quotas = [0] * len(sizes)
    for visited, number in enumerate(order):
        probability = weights[number] / math.fsum(weights[n] for n in order[visited:])
        wanted = (budget - sum(quotas)) * probability
        if abs(wanted - math.floor(wanted) - 0.5) < 1e-9:  # a tie that the last bit decides
            wanted = round(wanted * 2) / 2
        quotas[number] = min(round(wanted), sizes[number])
    while sum(quotas) < budget:
        best = next(number for number in order if quotas[number] < sizes[number])
        quotas[best] += 1
    return quotas
