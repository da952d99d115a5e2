from __future__ import annotations

import re
import warnings
from xml.etree import ElementTree as ET

import pytest

from xmas_job.reports import charts


def entry(arm: str, mean: float = 0.5, standard_error: float | None = 0.1) -> dict[str, object]:
    return {"arm": arm, "mean": mean, "standard_error": standard_error}


def texts(svg: str) -> list[str]:
    # The SVG goes inside HTML, so it carries no namespaces; xlink is declared here to parse it.
    root = ET.fromstring(svg.replace("<svg", '<svg xmlns:xlink="x"', 1))
    return [element.text or "" for element in root.iter("text")]


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "a $b$ \\frac{", "数学の問題 😀", "--> ]]> <style>", "_hidden", "&amp;"]
)
def test_chart_shows_a_hostile_name_as_the_text_it_is(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = charts.source_scores([{"source": name, "arms": [entry("xmas")]}], ["xmas"])

    assert charts.short_label(name) in texts(svg)


def test_short_label_is_one_printable_line_of_limited_length():
    assert charts.short_label("a\n\tb\x00\u202ec") == "a b c"
    assert charts.short_label("x" * 24) == "x" * 24
    assert charts.short_label("x" * 25) == "x" * 23 + "…"


def test_chart_takes_colours_and_font_from_the_page_alone():
    svg = charts.instability_histogram(
        {
            "edges": [0.0, 1.0, 2.0],
            "num_kept": [3, 1],
            "num_dropped": [1, 3],
            "median_kept": 0.5,
            "median_dropped": 1.5,
        }
    )

    assert set(re.findall(r"(?:fill|stroke): ?([^;\"]+)", svg)) <= {
        "none",
        *(f"var({v})" for v in charts._COLOURS.values()),
    }
    assert set(re.findall(r"font-family: ([^;\"]+)", svg)) == {"var(--font)"}
    assert {"kept", "dropped"} <= set(texts(svg))


def test_instability_histogram_leaves_out_an_empty_group():
    svg = charts.instability_histogram(
        {"edges": [0.0, 1.0], "num_kept": [2], "num_dropped": [0], "median_kept": 0.5, "median_dropped": None}
    )

    assert "dropped" not in texts(svg)


def test_panels_share_one_vertical_axis():
    panels = [
        {"cluster": 0, "low": [1.0, 1.0], "median": [2.0, 2.0], "high": [3.0, 3.0]},
        {"cluster": 1, "low": [90.0, 90.0], "median": [95.0, 95.0], "high": [99.0, 99.0]},
    ]

    first, second = charts.trajectory_panels({"panels": panels, "positions": [0.5, 1.0]})

    assert texts(first) == texts(second)
    assert first != second


def test_panel_of_equal_values_still_has_an_axis():
    panel = {"cluster": 0, "low": [2.0], "median": [2.0], "high": [2.0]}

    (svg,) = charts.trajectory_panels({"panels": [panel], "positions": [1.0]})

    assert "2.00" in texts(svg)


def test_cluster_sizes_show_a_single_cluster_and_one_without_a_kept_example():
    assert "1" in texts(charts.cluster_sizes([{"num_members": 5000, "num_selected": 3}]))
    assert charts.cluster_sizes([{"num_members": 9, "num_selected": 3}, {"num_members": 4, "num_selected": 0}])


def test_differences_name_the_side_that_wins_and_every_benchmark():
    rows = [
        {"arm": "xmas", "baseline": "random", "benchmark": name, "mean": 0.01, "low": -0.02, "high": 0.04}
        for name in ("pope", "gqa")
    ]

    assert {"← random better", "xmas better →", "pope", "gqa"} <= set(texts(charts.differences(rows)))


def test_arms_differ_in_colour_and_in_shape():
    styles = charts.arm_styles(["xmas", "random", "full", "coincide"])

    assert len({colour for colour, _ in styles.values()}) == 4
    assert len({marker for _, marker in styles.values()}) == 4
    assert styles["random"] == charts.arm_styles(["random"])["random"]


@pytest.mark.parametrize(("value", "text"), [(1, "1"), (999, "999"), (1000, "1k"), (2.5e6, "2.5M"), (1e10, "10G")])
def test_short_count_is_short(value, text):
    assert charts.short_count(value) == text
