from __future__ import annotations

import pytest

from tests.selection.small_pools import order_of, small_pool
from xmas_job.selection.middle_perplexity import MiddlePerplexity


def test_the_median_comes_first_by_hand() -> None:
    # Ascending: rows 3 1 4 0 2 with 1 2 3 5 9; the middle is row 4, then by turns below and above.
    pool = small_pool({"perplexity": [5, 2, 9, 1, 3]})
    assert order_of(MiddlePerplexity(), pool) == [4, 1, 0, 3, 2]


@pytest.mark.parametrize("num_rows", range(1, 12))
def test_every_budget_is_the_band_of_the_published_loader(num_rows: int) -> None:
    """From n // 2 - B // 2 on, B of the n in ascending order."""
    order = order_of(MiddlePerplexity(), small_pool({"perplexity": list(range(num_rows))}))
    for budget in range(1, num_rows + 1):
        start = num_rows // 2 - budget // 2
        assert sorted(order[:budget]) == list(range(start, start + budget))


def test_text_only_rows_are_woven_in_by_their_share() -> None:
    pool = small_pool({"perplexity": [5, 2, 9, 1]}, text_rows=[1, 3])
    # Images 0 2 4 5 with 5 2 9 1: the middle of 1 2 5 9 is 5, row 0; then 2, row 2; then 9, row 4; then 1, row 5.
    order = order_of(MiddlePerplexity(), pool)
    assert [row for row in order if row not in {1, 3}] == [0, 2, 4, 5]
    assert [row in {1, 3} for row in order] == [False, False, True, False, False, True]
