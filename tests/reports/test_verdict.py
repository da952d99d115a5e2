from __future__ import annotations

import dataclasses

import pytest

from tests.reports.conftest import make_evaluation
from xmas_job.reports.facts import Evaluation
from xmas_job.reports.verdict import headline, signed


def test_headline_says_better_with_both_scores_and_the_interval():
    top = headline("xmas", make_evaluation("better"))

    assert top["verdict"] == "better"
    (sentence,) = top["sentences"]
    assert sentence == (
        "The xmas subset beat a random subset of the same size on held-out: exact match 0.650 against 0.600, "
        "a difference of +0.050 (95% interval +0.020 to +0.080)."
    )


def test_headline_says_plainly_that_the_method_lost():
    top = headline("xmas", make_evaluation("worse"))

    assert top["verdict"] == "worse"
    assert top["sentences"][0].startswith("The xmas subset lost to a random subset of the same size on held-out")
    assert top["sentences"][0].endswith("On this evidence, train on a random subset of the same size instead.")


def test_headline_says_how_large_an_unseen_difference_may_be():
    top = headline("xmas", make_evaluation("no difference"))

    assert top["sentences"][0].startswith("No difference was shown between the xmas subset and a random subset")
    assert top["sentences"][0].endswith("The data fit anything from a loss of 0.020 to a gain of 0.040.")


def test_headline_leaves_out_the_luck_of_training_when_each_arm_was_trained_once():
    once = headline("xmas", make_evaluation("better", num_seeds=1))
    often = headline("xmas", make_evaluation("better", num_seeds=5))

    assert once["covers"] == "the choice of the 400 held-out examples"
    assert once["leaves_out"].startswith("the luck of training (each arm was trained once")
    assert often["covers"].endswith("and the luck of training, seen over 5 seeds")
    assert "luck" not in often["leaves_out"]


def test_headline_says_unknown_when_no_target_was_trained():
    top = headline("xmas", None)

    assert top["verdict"] == "not measured"
    assert "is unknown" in top["sentences"][0]


def test_headline_says_not_compared_when_there_are_scores_but_no_pair():
    top = headline("random", Evaluation(make_evaluation("better").scores))

    assert top["verdict"] == "not measured"
    assert "none was compared" in top["sentences"][0]


def test_headline_is_mixed_and_counts_when_benchmarks_disagree():
    win, loss = make_evaluation("better"), make_evaluation("worse", benchmark="other")
    both = Evaluation(win.scores + loss.scores, win.comparisons + loss.comparisons)

    top = headline("xmas", both)

    assert top["verdict"] == "mixed"
    assert top["sentences"][0].endswith("on 2 benchmarks: better on 1, worse on 1.")
    assert len(top["sentences"]) == 3


def test_headline_calls_the_full_pool_by_its_name():
    evaluation = make_evaluation("worse")
    scores = tuple(dataclasses.replace(s, arm="full" if s.arm == "random" else s.arm) for s in evaluation.scores)
    comparisons = (dataclasses.replace(evaluation.comparisons[0], baseline="full"),)

    assert "lost to the full pool on held-out" in headline("xmas", Evaluation(scores, comparisons))["sentences"][0]


def test_headline_refuses_a_comparison_without_scores():
    with pytest.raises(ValueError, match="no score"):
        headline("xmas", dataclasses.replace(make_evaluation("better"), scores=()))


@pytest.mark.parametrize(("value", "text"), [(0.0501, "+0.050"), (-0.05, "−0.050"), (-0.0001, "0.000")])
def test_signed_shows_the_sign_unless_it_rounds_to_zero(value, text):
    assert signed(value) == text
