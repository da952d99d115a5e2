from __future__ import annotations

import math

import pytest

from xmas_job.errors import BadDataError, TryAgainError
from xmas_job.training.watch import Seen, Watchdogs


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)])
def test_what_is_not_finite_stops_at_once(loss, norm):
    with pytest.raises(BadDataError, match=r"broke at optimizer step 7: loss"):
        Watchdogs(1.0).check_step(7, loss, norm)


def test_ten_losses_of_zero_in_a_row_stop_and_nine_do_not():
    dogs = Watchdogs(1.0)
    for step in range(1, 10):
        dogs.check_step(step, 0.0, 0.0)
    dogs.check_step(10, 0.5, 1.0)
    for step in range(11, 20):
        dogs.check_step(step, 0.0, 0.0)
    with pytest.raises(BadDataError, match=r"exactly 0 in the 10 optimizer steps up to 20"):
        dogs.check_step(20, 0.0, 0.0)


def test_gradients_that_stay_a_hundred_times_higher_stop_and_a_spike_does_not():
    dogs = Watchdogs(1.0)
    for step in range(1, 21):
        dogs.check_step(step, 2.0, 1.0)
    dogs.check_step(21, 2.0, 1e6)
    dogs.check_step(22, 2.0, 99.0)
    for step in range(23, 32):
        dogs.check_step(step, 2.0, 101.0)
    with pytest.raises(BadDataError, match=r"exploded: norm 101 at optimizer step 32.* median 1 before"):
        dogs.check_step(32, 2.0, 101.0)


def test_steep_gradients_do_not_become_the_usual_ones():
    dogs = Watchdogs(1.0)
    for step, norm in enumerate([*[1.0] * 10, *[1e6] * 9, 1.0, *[1e6] * 9], start=1):
        dogs.check_step(step, 2.0, norm)
    with pytest.raises(BadDataError, match=r"step 30.* median 1 before"):
        dogs.check_step(30, 2.0, 1e6)


def test_a_share_of_examples_without_an_answer_is_judged_once_enough_were_seen_and_at_the_end():
    dogs = Watchdogs(0.1)
    few = Seen(num_examples=10, num_unsupervised=2)
    dogs.check_examples(few)
    with pytest.raises(BadDataError, match=r"2 of 10 examples had no answer token left \(20.0%; the limit is 10.0%\)"):
        dogs.check_examples(few, at_end=True)
    dogs.check_examples(Seen(num_examples=1000, num_unsupervised=100))
    with pytest.raises(BadDataError, match=r"101 of 1000"):
        dogs.check_examples(Seen(num_examples=1000, num_unsupervised=101))


def test_two_slow_windows_in_a_row_are_a_collapse_and_one_is_not():
    dogs = Watchdogs(1.0, min_rate_fraction=0.1, slow_seconds=10.0)
    tokens = [0, 1000, 2000, 2050, 3050, 3100]  # a window: 100, 100, 5, 100, 5 tokens a second
    for number, total in enumerate(tokens):
        dogs.check_rate(10.0 * number, total)
        dogs.check_rate(10.0 * number + 5, total)  # within a window nothing is judged
    with pytest.raises(TryAgainError, match=r"collapsed: 5 tokens a second for 20 s, usually 100"):
        dogs.check_rate(60.0, 3150)


def test_slow_windows_do_not_become_the_usual_ones():
    dogs = Watchdogs(1.0, min_rate_fraction=0.1, slow_seconds=10.0)
    for number, total in enumerate([0, 1000, 1090, 2090, 2180]):  # 100, 9, 100, 9 tokens a second
        dogs.check_rate(10.0 * number, total)
    with pytest.raises(TryAgainError, match=r"collapsed: 9 tokens a second for 20 s, usually 100"):
        dogs.check_rate(50.0, 2270)


def test_without_a_limit_no_rate_is_too_slow():
    dogs = Watchdogs(1.0, slow_seconds=10.0)
    for number, total in enumerate([0, 1000, 1000, 1000, 1000]):
        dogs.check_rate(10.0 * number, total)
