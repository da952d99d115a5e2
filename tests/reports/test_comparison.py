"""A comparison small enough to be worked by hand: twelve held-out examples of two families, one seed, pool of eight."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest

from tests.reports.test_page import Page
from xmas_job.core.performance import mean_and_standard_error
from xmas_job.reports import comparison_charts
from xmas_job.reports.comparison import Arm, ComparisonFacts, Contender, StageCost, build_comparison, shared_and_jaccard
from xmas_job.reports.comparison_page import render
from xmas_job.reports.facts import Score

RIGHT = {  # on held-out examples 0..5 of family "count" and 6..11 of "shape"
    "random": "110000" + "100000",
    "gains": "111100" + "111000",  # four more than random: t = 2.345 at 11 degrees, p = 0.0388 (0.02 < p < 0.05)
    "same": "110000" + "100000",
    "loses": "000000" + "000000",  # three fewer: t = -1.915, p = 0.0819 (0.05 < p < 0.1)
    "full": "111111" + "111000",
}


def arm(name: str, budget: str, *subsets: str) -> Arm:
    correct = np.array([[digit == "1" for digit in RIGHT[name]]])
    scores = []
    for source, values in ((None, correct[0]), ("shape", correct[0][6:]), ("count", correct[0][:6])):
        found = mean_and_standard_error(values)
        scores.append(Score(name, 0, "held", "exact_match", found.mean, found.standard_error, len(values), source))
    return Arm(name, budget, tuple(np.array(list(subset)) for subset in subsets), tuple(scores), correct)


POOL = StageCost("pool", "artifacts/pool/1", 2.0)
EXTRACT = StageCost("extract", "artifacts/extract/1", 30.0)
TRAIN = {name: StageCost("train_target", f"artifacts/train_target/{name}", 7.0) for name in RIGHT}


def contender(name: str, subset: str, *costs: StageCost) -> Contender:
    select = StageCost("select", f"artifacts/select/{name}", 1.0)
    found = arm(name, "25%", subset)
    return Contender(found, "done", f"c.{name}.25pct", f"s-{name}", 8, costs=(POOL, *costs, select, TRAIN[name]))


@pytest.fixture(scope="session")
def facts() -> ComparisonFacts:
    return make_facts()


def make_facts() -> ComparisonFacts:
    return ComparisonFacts(
        comparison_id="c",
        created_at="2026-01-02T03:04:05+00:00",
        datasets=("demo@v1",),
        held_out="held@v1",
        num_seeds=1,
        budgets=("25%",),
        contenders=(
            contender("same", "bc"),
            contender("gains", "ab", EXTRACT),
            contender("loses", "gh", EXTRACT),
            Contender(Arm("ofa", "25%"), "refused", error="needs a <selector>.", remedy="Train one."),
        ),
        references=(arm("random", "25%", "ac", "cd"), arm("full", "", "abcdefgh")),
        commands=(("Again", "xmas-job compare"),),
    )


@pytest.fixture(scope="session")
def numbers(facts):
    return build_comparison(facts)


@pytest.fixture(scope="session")
def html(numbers):
    return render(numbers)


def test_differences_are_to_random_and_verdicts_hold_for_all_at_once(numbers):
    found = {row["method"]: row["difference"] for row in numbers["results"]}
    assert found["gains"]["mean"] == pytest.approx(4 / 12)
    assert found["gains"]["p_value"] == pytest.approx(0.0388, abs=2e-4)
    assert found["gains"]["p_holm"] == pytest.approx(3 * found["gains"]["p_value"])
    assert (found["gains"]["alone"], found["gains"]["verdict"]) == ("better", "no difference")
    assert found["loses"]["p_holm"] == pytest.approx(2 * found["loses"]["p_value"])
    assert (found["same"]["mean"], found["same"]["p_holm"]) == (0.0, 1.0)
    assert found["ofa"] is None
    # Four of twelve differ, by 1: the ends are the 2.5 % and 97.5 % points of Binomial(12, 1/3), over 12.
    assert found["gains"]["same_models"] == {"low": pytest.approx(1 / 12), "high": pytest.approx(7 / 12)}
    assert found["same"]["same_models"] == {"low": 0.0, "high": 0.0}
    assert numbers["num_comparisons"] == 3
    assert numbers["headline"] == {
        "verdict": "no difference",
        "counted": {"better": 0, "worse": 0, "no difference": 3},
        "alone": {"better": 1, "worse": 0},
        "num_without": 1,
    }


def test_intervals_are_explained_by_the_number_of_seeds(facts, numbers, html):
    assert numbers["intervals"].startswith("With one seed both intervals ask what other held-out examples")
    more = build_comparison(dataclasses.replace(facts, num_seeds=3))["intervals"]
    assert "more seeds are needed" in more
    assert numbers["intervals"] in Page(html).text
    untried = dataclasses.replace(facts, contenders=facts.contenders[3:])
    assert build_comparison(untried)["intervals"] == ""


def test_fewer_comparisons_ask_for_less(facts):
    alone = build_comparison(ComparisonFacts(**{**vars(facts), "contenders": facts.contenders[1:2]}))
    assert alone["results"][0]["difference"]["verdict"] == "better"
    assert alone["headline"]["verdict"] == "better"


def test_means_are_relative_to_the_whole_pool(numbers):
    means = {row["method"]: (row["mean"], row["relative"]) for row in (*numbers["results"], *numbers["references"])}
    assert means["gains"] == (pytest.approx(7 / 12), pytest.approx(100 * 7 / 9))
    assert means["full"] == (pytest.approx(9 / 12), pytest.approx(100.0))
    assert means["ofa"] == (None, None)


def test_overlap_by_hand(numbers):
    (overlap,) = numbers["overlaps"]
    assert overlap["methods"] == ["same", "gains", "loses", "random (mean)"]
    assert overlap["shared"][0] == [1.0, 0.5, 0.0, 0.5]  # bc with ab; with ac and cd
    assert overlap["shared"][1] == [0.5, 1.0, 0.0, 0.25]  # ab with ac, and nothing of cd
    assert overlap["jaccard"][1] == [pytest.approx(1 / 3), 1.0, 0.0, pytest.approx(1 / 6)]
    assert (overlap["shared"][3][3], overlap["jaccard"][3][3]) == (0.5, pytest.approx(1 / 3))  # the two draws share c
    assert (overlap["num_examples"], overlap["by_chance"]) == (2, 0.25)


def test_sets_of_unequal_size_share_of_the_smaller():
    assert shared_and_jaccard(np.array(list("abcd")), np.array(list("cde"))) == (2 / 3, 2 / 5)


def test_families_are_differences_to_random(numbers):
    (family,) = numbers["families"]
    assert [(found["source"], found["num_examples"]) for found in family["sources"]] == [("count", 6), ("shape", 6)]
    rows = {row["method"]: row["differences"] for row in family["rows"]}
    assert rows["gains"] == pytest.approx([2 / 6, 2 / 6])
    assert rows["loses"] == pytest.approx([-2 / 6, -1 / 6])


def test_costs_charge_what_is_shared_to_each_and_count_it_once_in_all(numbers):
    rows = {row["method"]: row for row in numbers["costs"]["rows"]}
    assert rows["gains"]["groups"] == {"data": 2.0, "proxy": 0.0, "signals": 30.0, "choice": 1.0, "targets": 7.0}
    assert (rows["gains"]["choosing"], rows["same"]["choosing"]) == (33.0, 3.0)
    assert "ofa" not in rows
    # pool 2, extract 30, three selections, three trainings; apart: 10 + 40 + 40.
    assert (numbers["costs"]["seconds_paid"], numbers["costs"]["seconds_if_apart"]) == (56.0, 90.0)


def test_page_is_the_same_from_numbers_read_back_from_json(numbers, html):
    assert render(json.loads(json.dumps(numbers, allow_nan=False))) == html


def test_page_shows_losers_references_and_what_could_not_run(html):
    page = Page(html)
    assert "= No difference to random shown, in 3 comparisons" in page.text
    table = page.text[page.text.index("p (Holm) relative") :]
    lines = [
        "full reference 0.750",
        "gains better, taken alone 0.583 +0.333 +0.020 to +0.646 +0.083 to +0.583",
        "same no difference 0.250",
        "loses no difference 0.000",
        "ofa refused –",
    ]
    order = [table.index(line) for line in lines]
    assert order == sorted(order)  # the best mean first, what has none last
    assert "Taken alone, 1 would count as better and 0 as worse; luck by itself makes about 0.2 of 3" in page.text
    assert "25% ofa refused needs a <selector>. Train one." in page.text
    assert "Two subsets drawn blindly share 25%." in page.text
    assert "56.0 s. Without sharing it would be 1 min 30 s" in page.text


def test_page_links_fit_together_and_every_chart_has_an_alternative_text(html):
    page = Page(html)
    ids, links = page.values("id"), page.values("href")
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    runs = {f"../../../runs/c.{name}.25pct/report/index.html" for name in ("same", "gains", "loses")}
    assert {link for link in links if not link.startswith("#")} == {"report.json", *runs}
    images = [attributes for _, attributes in page.tags if attributes.get("role") == "img"]
    assert len(images) == sum(tag == "svg" for tag, _ in page.tags) == 4
    assert all(image.get("aria-label") for image in images)


def test_page_before_anything_has_run_says_so(facts):
    waiting = Contender(Arm("xmas", "25%"), "unfinished", "c.xmas.25pct", error="its run has not ended.", remedy="See.")
    nothing = ComparisonFacts(**{**vars(facts), "contenders": (waiting,), "references": (Arm("random", "25%"),)})
    page = Page(render(build_comparison(nothing)))
    assert "? Not measured No target was trained and scored" in page.text
    assert "25% xmas unfinished its run has not ended." in page.text
    assert "Nothing has been built yet." in page.text


def test_method_of_ones_own_goes_by_its_class_where_room_is_short():
    assert comparison_charts.method_label("a.b:Mine") == "a.b:Mine"
    assert comparison_charts.method_label("my_methods.selection:Mine") == "Mine"
    assert comparison_charts.method_label("a:" + "M" * 30) == "M" * 21 + "…"


def test_charts_mark_verdicts_and_keep_negative_cells_apart(numbers):
    tested = [row for row in numbers["results"] if row["difference"]]
    better = {**tested[1], "difference": {**tested[1]["difference"], "verdict": "better"}}
    assert comparison_charts.intervals([better]) != comparison_charts.intervals([tested[1]])
    bars = re.findall(
        r'd="M ([\d.]+) [\d.]+\s+L ([\d.]+) [^>]*stroke-width: (1\.5|5)"', comparison_charts.intervals([tested[1]])
    )
    (wide_low, wide_high, _), (narrow_low, narrow_high, _) = sorted(bars, key=lambda bar: bar[2])
    # 0.646 - 0.020 wide, 0.583 - 0.083 narrow: the thin bar is the wide one.
    drawn = (float(narrow_high) - float(narrow_low)) / (float(wide_high) - float(wide_low))
    assert drawn == pytest.approx(0.5 / 0.6257, abs=0.01)
    svg = comparison_charts.families(numbers["families"][0])
    assert "+33" in svg
    assert "−33" in svg
    family = {**numbers["families"][0], "rows": [{"method": "same", "differences": [-0.004, 0.0]}]}
    svg_of_zeros = comparison_charts.families(family)
    assert svg_of_zeros.count(">0<") == 2
    assert "−0" not in svg_of_zeros
    assert "+0" not in svg_of_zeros
    assert svg.count("var(--random)") >= 2  # of the one that loses
    assert "var(--kept)" in svg
