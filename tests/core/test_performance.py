"""Numbers are worked by hand from the formulas; the coverage is simulated with a fixed generator."""

from __future__ import annotations

import numpy as np
import pytest

from xmas_job.core.performance import (
    average_relative_performance,
    bootstrap_interval,
    holm,
    mean_and_standard_error,
    mean_by_source,
    paired_difference,
)
from xmas_job.errors import BadDataError, UsageError


def test_mean_and_error_of_three_right_out_of_four():
    score = mean_and_standard_error([1, 1, 1, 0])
    # Sample variance (3 * 0.25^2 + 0.75^2) / 3 = 0.25; standard error 0.5 / 2.
    assert (score.mean, score.standard_error, score.num_examples) == (0.75, 0.25, 4)


def test_one_example_shows_no_error():
    assert mean_and_standard_error([1]).standard_error is None


@pytest.mark.parametrize("scores", [[], [0.0, np.nan], [[1.0, 0.0]]])
def test_scores_that_cannot_be_averaged_are_refused(scores):
    with pytest.raises(BadDataError):
        mean_and_standard_error(scores)


def test_mean_by_source_splits_the_examples():
    scores = mean_by_source([1, 0, 1, 1, 0, 1], ["shape", "colour", "shape", "colour", "colour", "shape"])
    assert list(scores) == ["colour", "shape"]
    assert scores["colour"].mean == pytest.approx(1 / 3)
    assert (scores["shape"].mean, scores["shape"].standard_error, scores["shape"].num_examples) == (1.0, 0.0, 3)


def test_mean_by_source_refuses_a_missing_source():
    with pytest.raises(BadDataError, match="2 scores but 1 sources"):
        mean_by_source([1, 0], ["a"])


def test_one_seed_uses_the_examples_alone():
    a, b = [[1, 1, 1, 1]], [[0, 1, 0, 1]]
    result = paired_difference(a, b)
    # d = 1 0 1 0: mean 0.5, sample variance 1/3, error sqrt(1/12); t(0.975, 3) = 3.182 from the printed table.
    assert result.mean == 0.5
    assert result.standard_error == pytest.approx(np.sqrt(1 / 12))
    assert result.high - result.mean == pytest.approx(3.182 * np.sqrt(1 / 12), rel=1e-3)
    assert result.verdict == "no difference"


def test_two_way_variance_matches_a_hand_worked_table():
    difference = np.array([[4.0, 2.0, 0.0], [2.0, 0.0, -2.0]])
    result = paired_difference(difference, np.zeros((2, 3)))
    # Grand mean 1. Examples: means 3, 1, -1, variance 4, / 3. Seeds: means 2, 0, variance 2, / 2 = 1.
    # Cells: squares 9 + 1 + 1 + 1 + 1 + 9 = 22, / 5, / 6 = 22/30. V = 4/3 + 1 - 22/30 = 1.6.
    assert result.mean == 1.0
    assert result.standard_error == pytest.approx(np.sqrt(1.6))
    # t(0.975, 1 degree of freedom) = 12.706.
    assert result.low == pytest.approx(1.0 - 12.706 * np.sqrt(1.6), rel=1e-3)


def test_the_variance_never_falls_below_a_one_way_variance():
    # Every example mean and every seed mean is 0: only the cells vary, and V_e + V_s - V_c would be negative.
    checkerboard = np.array([[1.0, -1.0], [-1.0, 1.0]])
    assert paired_difference(checkerboard, np.zeros((2, 2))).standard_error == 0.0
    # Seeds agree (V_seeds 0, V_cells > 0): the examples' own variance is the floor. Means 0, 2: variance 2, / 2.
    agreeing = np.array([[0.0, 2.0], [0.0, 2.0]])
    assert paired_difference(agreeing, np.zeros((2, 2))).standard_error == pytest.approx(1.0)


def test_the_verdict_names_the_first_arm():
    good, bad = np.ones((3, 50)), np.zeros((3, 50))
    good[:, :5] = 0
    assert paired_difference(good, bad).verdict == "better"
    assert paired_difference(bad, good).verdict == "worse"
    assert paired_difference(good, good).verdict == "no difference"


def test_a_higher_confidence_widens_the_interval():
    a, b = [[1, 1, 1, 1, 1, 1]], [[0, 1, 0, 1, 1, 0]]
    narrow, wide = paired_difference(a, b, confidence=0.5), paired_difference(a, b, confidence=0.99)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high
    assert (narrow.verdict, wide.verdict) == ("better", "no difference")


def test_a_difference_that_only_one_seed_shows_is_no_difference():
    """One lucky training moves every example of its row: the examples alone would call it certain."""
    a, b = np.zeros((3, 400)), np.zeros((3, 400))
    a[0, :100] = 1
    assert paired_difference(a[:1], b[:1]).verdict == "better"
    assert paired_difference(a, b).verdict == "no difference"


@pytest.mark.parametrize(
    ("a", "b"),
    [([[1.0, 0.0]], [[1.0]]), ([[1.0]], [[0.0]]), ([[1.0, np.nan]], [[1.0, 0.0]]), ([1.0, 0.0], [1.0, 0.0])],
)
def test_scores_that_do_not_pair_are_refused(a, b):
    with pytest.raises(BadDataError):
        paired_difference(a, b)


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_a_confidence_that_is_no_probability_is_refused(confidence):
    with pytest.raises(UsageError):
        paired_difference([[1, 0]], [[0, 0]], confidence=confidence)


@pytest.mark.parametrize(("num_seeds", "seed_noise"), [(5, 0.0), (5, 0.05), (3, 0.05), (1, 0.0)])
def test_the_interval_covers_the_truth_at_least_as_often_as_promised(num_seeds, seed_noise):
    """Scores are 0/1 draws whose chance moves with the example (shared by both arms) and with the training seed."""
    generator = np.random.default_rng(20)
    num_examples, true_difference, num_trials, covered = 150, 0.1, 600, 0
    for _ in range(num_trials):
        chance = generator.uniform(0.2, 0.7, size=num_examples)
        effect = true_difference + generator.uniform(-0.1, 0.1, size=num_examples)
        luck = generator.normal(0, seed_noise, size=(2, num_seeds, 1))
        a = generator.random((num_seeds, num_examples)) < chance + effect + luck[0]
        b = generator.random((num_seeds, num_examples)) < chance + luck[1]
        result = paired_difference(a, b)
        covered += result.low <= true_difference <= result.high
    # Three standard errors of a 95 % share over 600 trials are 2.7 points; wider than promised is allowed.
    assert covered / num_trials > 0.95 - 0.027


def test_ignoring_the_seeds_would_not_cover_the_truth():
    """The reason for the two-way variance: averaging seeds away and calling only the examples random misses."""
    generator = np.random.default_rng(21)
    covered = 0
    for _ in range(300):
        luck = generator.normal(0, 0.05, size=(5, 1))
        a = generator.random((5, 150)) < 0.5 + luck
        b = generator.random((5, 150)) < 0.5
        result = paired_difference(a.mean(axis=0, keepdims=True), b.mean(axis=0, keepdims=True))
        covered += result.low <= 0 <= result.high
    assert covered / 300 < 0.9


def test_bootstrap_covers_the_truth_of_these_models():
    """The truth of trained models is their mean over all examples; their seeds' luck is part of it."""
    generator = np.random.default_rng(22)
    num_trials, covered = 200, 0
    for _ in range(num_trials):
        luck = generator.normal(0, 0.05, size=(2, 4, 1))
        chance = generator.choice([0.1, 0.8], size=80)  # the same for both arms: pairing takes it out
        a = generator.random((4, 80)) < chance + 0.1 + luck[0]
        b = generator.random((4, 80)) < chance + luck[1]
        low, high = bootstrap_interval(a, b)
        covered += low <= 0.1 + luck[0].mean() - luck[1].mean() <= high
    # Three standard errors of a 95 % share over 200 trials are 4.6 points, on either side.
    assert covered / num_trials == pytest.approx(0.95, abs=0.046)


def test_bootstrap_in_large_samples_is_the_normal_interval():
    generator = np.random.default_rng(23)
    a, b = generator.random((3, 4000)) < 0.6, generator.random((3, 4000)) < 0.5
    by_example = (a.astype(float) - b).mean(axis=0)
    error = np.sqrt(np.sum((by_example - by_example.mean()) ** 2) / 3999 / 4000)
    # The ends of 9,999 resamples are themselves off by about 3 % of an error.
    assert bootstrap_interval(a, b) == pytest.approx(
        (by_example.mean() - 1.960 * error, by_example.mean() + 1.960 * error), abs=0.1 * error
    )
    low, high = bootstrap_interval(a, b, confidence=0.6827)
    assert (high - low) / 2 == pytest.approx(error, rel=0.05)


def test_bootstrap_of_two_examples_by_hand():
    # Differences 1 and 0 are drawn as 0, 1/2, 1 with chances 1/4, 1/2, 1/4: every end up to 1/4 is the extreme.
    assert bootstrap_interval([[1, 1]], [[0, 1]]) == (0.0, 1.0)
    assert bootstrap_interval([[1, 1]], [[0, 1]], confidence=0.4) == (0.5, 0.5)
    # Seeds are averaged first: 1, 0 and -1, 0 are 0, 0.
    assert bootstrap_interval([[1, 0], [0, 0]], [[0, 0], [1, 0]]) == (0.0, 0.0)


def test_bootstrap_of_equal_differences_has_no_width():
    assert bootstrap_interval(np.ones((2, 30)), np.zeros((2, 30))) == (1.0, 1.0)
    assert bootstrap_interval(np.ones((2, 30)), np.ones((2, 30))) == (0.0, 0.0)


def test_bootstrap_gives_the_same_ends_again_and_mirrored_ones_for_swapped_arms():
    generator = np.random.default_rng(24)
    a, b = generator.random((2, 60)), generator.random((2, 60))  # fine enough that no two draws agree by chance
    low, high = bootstrap_interval(a, b)
    assert bootstrap_interval(a, b) == (low, high)
    assert bootstrap_interval(b, a) == pytest.approx((-high, -low))


def test_luck_of_one_seed_is_inside_these_models_and_outside_the_verdict():
    """What tells "train more seeds" from "judge on more examples"."""
    a, b = np.zeros((3, 400)), np.zeros((3, 400))
    a[0, :100] = 1
    low, _ = bootstrap_interval(a, b)
    assert low > 0
    assert paired_difference(a, b).low < 0


@pytest.mark.parametrize(("a", "b"), [([[1.0]], [[0.0]]), ([[1.0, np.nan]], [[1.0, 0.0]]), ([[1.0, 0.0]], [[1.0]])])
def test_bootstrap_refuses_what_does_not_pair(a, b):
    with pytest.raises(BadDataError):
        bootstrap_interval(a, b)
    with pytest.raises(UsageError):
        bootstrap_interval([[1, 0]], [[0, 0]], confidence=1.0)


def test_arp_is_the_mean_of_the_relative_scores():
    arp = average_relative_performance({"gqa": 0.45, "mme": 1200.0}, {"gqa": 0.5, "mme": 1000.0})
    assert arp == pytest.approx((90.0 + 120.0) / 2)


@pytest.mark.parametrize(
    ("scores", "full"),
    [({"gqa": 0.5}, {"gqa": 0.0}), ({"gqa": 0.5}, {"mme": 1.0}), ({}, {}), ({"gqa": 0.5}, {"gqa": float("nan")})],
)
def test_arp_refuses_what_it_cannot_divide(scores, full):
    with pytest.raises(BadDataError):
        average_relative_performance(scores, full)


def test_p_value_agrees_with_the_interval_and_with_the_printed_table():
    # d = 1 0 1 0: mean 0.5, error sqrt(1/12), t = sqrt(3) at 3 degrees: two-sided p 0.1817 (between 0.2 and 0.1).
    assert paired_difference([[1, 1, 1, 1]], [[0, 1, 0, 1]]).p_value == pytest.approx(0.1817, abs=1e-4)
    edge = paired_difference([[1, 1, 1, 1]], [[0, 1, 0, 1]], confidence=1 - 0.18169)
    assert edge.low == pytest.approx(0, abs=1e-4)
    assert paired_difference([[1, 1]], [[1, 1]]).p_value == 1.0
    assert paired_difference([[1, 1]], [[0, 0]]).p_value == 0.0


def test_holm_by_hand():
    # Sorted 0.01 0.02 0.03 0.04: times 4, 3, 2, 1 = 0.04 0.06 0.06 0.04, and never below the one before.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []
