from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from tests.reports.conftest import make_evaluation
from xmas_job.errors import BadDataError
from xmas_job.reports.facts import Evaluation, Pool, Score
from xmas_job.reports.numbers import build_numbers


def test_sizes_count_pool_subset_and_text_only_share(run, pool, stages):
    sizes = build_numbers(run, pool, stages)["sizes"]

    assert (sizes["num_pool"], sizes["num_selected"], sizes["fraction"]) == (10, 4, 0.4)
    assert (sizes["text_only_share_pool"], sizes["text_only_share_selected"]) == (0.1, 0.25)
    assert (sizes["num_landed"], sizes["num_quarantined"], sizes["num_duplicates"]) == (20, 6, 4)
    assert sizes["num_outside_clusters"] == 1


def test_sources_are_sorted_by_frequency_with_shares_and_kept(run, pool, stages):
    sources = build_numbers(run, pool, stages)["sources"]

    assert [(row["source"], row["num_pool"], row["num_selected"]) for row in sources] == [
        ("shapes", 6, 2),
        ("charts", 3, 1),
        ("text", 1, 1),
    ]
    assert [row["share_pool"] for row in sources] == [0.6, 0.3, 0.1]
    assert [row["share_selected"] for row in sources] == [0.5, 0.25, 0.25]
    assert [row["kept"] for row in sources] == [2 / 6, 1 / 3, 1.0]


def test_clusters_state_the_cut_only_where_instability_explains_it(run, pool, stages):
    numbers = build_numbers(run, pool, stages)

    assert numbers["clusters"] == [
        {"cluster": 0, "num_members": 4, "num_selected": 2, "cut_in_part": True, "instability_cut": 0.2},
        {"cluster": 1, "num_members": 3, "num_selected": 1, "cut_in_part": True, "instability_cut": 0.05},
        {"cluster": 2, "num_members": 2, "num_selected": 0, "cut_in_part": False, "instability_cut": None},
    ]
    assert numbers["cut"] == {
        "num_clusters": 3,
        "num_clusters_touched": 2,
        "num_cut_in_part": 2,
        "num_cut_by_instability": 2,
    }


def test_clusters_state_no_cut_when_a_dropped_member_is_more_stable(run, pool, stages):
    # Row 3 (0.4) is kept instead of row 1 (0.2), as a method that draws at random inside clusters may do.
    drawn = dataclasses.replace(pool, selected=np.isin(np.arange(10), [0, 3, 6, 9]), rank=None)

    numbers = build_numbers(run, drawn, stages)

    assert numbers["clusters"][0]["instability_cut"] is None
    assert numbers["cut"]["num_cut_by_instability"] == 1


def test_other_budgets_are_prefixes_of_the_ranking(run, pool, stages):
    budgets = build_numbers(run, pool, stages)["other_budgets"]

    # 1, 2, 3 and 5 examples from the usual fractions, 4 from this run; rows in rank order: 0, 6, 9, 1, 4.
    assert [row["num_examples"] for row in budgets] == [1, 2, 3, 4, 5]
    assert [row["num_clusters_touched"] for row in budgets] == [1, 2, 2, 2, 2]
    assert [row["num_sources"] for row in budgets] == [1, 2, 3, 3, 3]
    assert [row["text_only_share"] for row in budgets] == [0, 0, 1 / 3, 1 / 4, 1 / 5]
    assert [row["is_this_run"] for row in budgets] == [False, False, False, True, False]


def test_other_budgets_stop_where_the_method_takes_no_more(run, pool, stages):
    rank = np.array([0, 2, -1, -1, -1, -1, 1, -1, -1, 3])

    numbers = build_numbers(run, dataclasses.replace(pool, rank=rank), stages)

    assert [row["num_examples"] for row in numbers["other_budgets"]] == [1, 2, 3, 4]
    assert numbers["sizes"]["num_never_selected"] == 6


def test_build_refuses_a_selection_that_is_not_a_prefix_of_its_ranking(run, pool, stages):
    rank = pool.rank.copy()
    rank[[1, 4]] = rank[[4, 1]]

    with pytest.raises(BadDataError, match="not the first 4 of its ranking"):
        build_numbers(run, dataclasses.replace(pool, rank=rank), stages)


def test_trajectory_bands_are_percentiles_of_each_cluster_the_largest_first(run, pool, stages, trajectories):
    bands = build_numbers(run, pool, stages, trajectories)["trajectories"]

    first, second = bands["panels"]
    assert (first["cluster"], first["num_members"], first["num_selected"]) == (4, 3, 1)
    np.testing.assert_allclose([first["low"], first["median"], first["high"]], [[2, 3], [10, 11], [18, 19]])
    assert (second["cluster"], second["num_members"], second["num_selected"]) == (2, 2, 2)
    np.testing.assert_allclose(second["median"], [6, 7])
    assert bands["positions"] == [0.5, 1.0]


def test_trajectory_bands_show_twelve_of_many_clusters(run, pool, stages, trajectories):
    many = dataclasses.replace(
        trajectories, values=np.zeros((40, 2)), cluster=np.arange(40) % 20, selected=np.zeros(40, bool)
    )

    bands = build_numbers(run, pool, stages, many)["trajectories"]

    assert [panel["cluster"] for panel in bands["panels"]] == list(range(12))
    assert bands["num_clusters"] == 20


def test_instability_histogram_counts_every_scored_example_once(run, stages):
    # 0..999: the 99.5th percentile is 994.005, so 995..999 lie beyond the last edge. The even ones are kept.
    pool = Pool(
        source=np.zeros(1001, int),
        source_names=("all",),
        text_only=np.arange(1001) == 1000,
        selected=np.arange(1001) % 2 == 0,
        instability=np.append(np.arange(1000.0), np.nan),
        scored=np.arange(1001) < 1000,
    )

    histogram = build_numbers(run, pool, stages)["instability"]

    assert (histogram["edges"][0], histogram["edges"][-1], histogram["num_beyond"]) == (0.0, 994.0, 5)
    assert sum(histogram["num_kept"]) == 500
    assert sum(histogram["num_dropped"]) == 500
    assert histogram["num_kept"][-1] + histogram["num_dropped"][-1] == 25 + 5  # 970..994 and what lies beyond
    assert (histogram["median_kept"], histogram["median_dropped"]) == (499.0, 500.0)


def test_instability_is_absent_when_nothing_is_scored(run, pool, stages):
    text_only = dataclasses.replace(
        pool, text_only=np.ones(10, bool), scored=np.zeros(10, bool), instability=np.full(10, np.nan), cluster=None
    )

    numbers = build_numbers(run, text_only, stages)

    assert numbers["instability"] is None
    assert numbers["clusters"] == []


def test_instability_has_no_dropped_median_when_everything_is_kept(run, pool, stages):
    everything = dataclasses.replace(pool, selected=np.ones(10, bool))

    histogram = build_numbers(run, everything, stages)["instability"]

    assert histogram["median_dropped"] is None
    assert sum(histogram["num_dropped"]) == 0


def test_arm_mean_over_seeds_does_not_divide_the_error(run, pool, stages):
    scores = tuple(
        Score("xmas", seed, "held-out", "exact match", mean, error, 50)
        for seed, mean, error in ((1, 0.6, 0.1), (2, 0.8, 0.3))
    )

    (arm,) = build_numbers(run, pool, stages, evaluation=Evaluation(scores))["evaluation"]["benchmarks"][0]["arms"]

    assert arm["mean"] == pytest.approx(0.7)
    assert arm["standard_error"] == pytest.approx(0.2)
    assert [seed["mean"] for seed in arm["seeds"]] == [0.6, 0.8]


def test_arm_error_is_absent_when_one_seed_has_none(run, pool, stages):
    scores = (
        Score("xmas", 1, "held-out", "exact match", 1.0, None, 1),
        Score("xmas", 2, "held-out", "exact match", 0.0, 0.1, 1),
    )

    (arm,) = build_numbers(run, pool, stages, evaluation=Evaluation(scores))["evaluation"]["benchmarks"][0]["arms"]

    assert arm["standard_error"] is None


def test_scored_sources_follow_the_order_of_the_pool_then_their_names(run, pool, stages):
    scores = tuple(
        Score("xmas", 1, "held-out", "exact match", 0.5, 0.1, 9, source)
        for source in ("unseen", "charts", "another", "shapes")
    )

    benchmark = build_numbers(run, pool, stages, evaluation=Evaluation(scores))["evaluation"]["benchmarks"][0]

    assert [row["source"] for row in benchmark["sources"]] == ["shapes", "charts", "another", "unseen"]


def test_build_refuses_a_score_that_is_not_finite(run, pool, stages):
    scores = (Score("random", 3, "held-out", "exact match", float("nan"), 0.1, 50),)

    with pytest.raises(BadDataError, match=r"random \(seed 3\) on held-out is nan"):
        build_numbers(run, pool, stages, evaluation=Evaluation(scores))


def test_quarantine_is_sorted_by_count_with_shares_of_what_landed(run, pool, stages):
    quarantine = build_numbers(run, pool, stages)["quarantine"]

    assert [(row["code"], row["num_examples"], row["share"]) for row in quarantine] == [
        ("missing_image", 5, 0.25),
        ("empty_answer", 1, 0.05),
    ]


def test_numbers_are_strict_json(run, pool, stages, trajectories):
    numbers = build_numbers(run, pool, stages, trajectories, make_evaluation("worse"))

    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_only": np.zeros(9, bool)}, "text_only has shape"),
        ({"selected": np.zeros(10, bool)}, "at least one selected"),
        ({"scored": None}, "come together"),
    ],
)
def test_pool_refuses_columns_that_do_not_belong_together(pool, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(pool, **change)
