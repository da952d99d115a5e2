"""The joint report of a comparison as one self-contained HTML page: numbers in, HTML out; as `page`, for many runs.

Owns order and captions. Refuses to own the numbers: what is not in them is not on the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xmas_job.reports import comparison_charts as charts
from xmas_job.reports.page import ABSENT, figure, number, template
from xmas_job.reports.verdict import signed

Json = dict[str, Any]

MAX_ON_TOP = 8
"""Intervals that fit beside the verdict; more stand among the scores."""

_TITLES = {
    "better": "▲ {better} of {all} better than random",
    "worse": "▼ {worse} of {all} worse than random, none better",
    "no difference": "= No difference to random shown, in {all} comparisons",
    "mixed": "◆ {better} of {all} better than random, {worse} worse",
    "not measured": "? Not measured",
}


def render(numbers: Json) -> str:
    """The page for the numbers of `build_comparison` (or the same read back from report.json)."""
    counted = numbers["headline"]["counted"]
    title = _TITLES[numbers["headline"]["verdict"]].format(**counted, all=numbers["num_comparisons"])
    tables = {budget: _rows(numbers, budget) for budget in numbers["comparison"]["budgets"]}
    tested = [row for rows in tables.values() for row in rows if row.get("difference")]
    return template("comparison.html.j2").render(
        **numbers,
        verdict_title=title,
        tables={budget: [{**row, **_cells(row)} for row in rows] for budget, rows in tables.items()},
        without=[row for row in numbers["results"] if row["error"]],
        runs=[row for row in numbers["results"] if row["run_id"]],
        interval_chart=_interval_chart(tested),
        is_chart_on_top=0 < len(tested) <= MAX_ON_TOP,
        overlap_charts=[_overlap_chart(overlap) for overlap in numbers["overlaps"]],
        family_charts=[_family_chart(family) for family in numbers["families"]],
        cost_chart=_cost_chart(numbers["costs"]["rows"]),
        stages=list(dict.fromkeys(stage for row in numbers["costs"]["rows"] for stage in row["stages"])),
    )


def _rows(numbers: Json, budget: str) -> list[Json]:
    """Methods and references of one budget, the best mean first, those without one last."""
    found = [row for row in (*numbers["results"], *numbers["references"]) if row["budget"] in {budget, ""}]
    return [
        {**row, "is_reference": "state" not in row}
        for row in sorted(found, key=lambda row: (row["mean"] is None, -(row["mean"] or 0.0)))
    ]


def _cells(row: Json) -> Json:
    """The texts of a row of the table."""
    found = row.get("difference")
    mean, relative = row["mean"], row["relative"]
    return {
        "label": charts.method_label(row["method"]),
        "mean_text": ABSENT if mean is None else f"{mean:.3f}",
        "relative_text": ABSENT if relative is None else f"{relative:.1f}%",
        "difference_text": signed(found["mean"]) if found else ABSENT,
        "interval_text": _interval(found) if found else ABSENT,
        "same_models_text": _interval(found["same_models"]) if found else ABSENT,
        "p_text": _p(found["p_holm"]) if found else ABSENT,
        "verdict": _verdict(row),
    }


def _interval(ends: Json) -> str:
    return f"{signed(ends['low'])} to {signed(ends['high'])}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _verdict(row: Json) -> str:
    if row["is_reference"]:
        return "reference"
    if row["difference"] is None:
        return str(row["state"]) if row["error"] else "not measured"
    verdict, alone = row["difference"]["verdict"], row["difference"]["alone"]
    return str(verdict) if verdict == alone else f"{alone}, taken alone"


def _interval_chart(rows: Sequence[Json]) -> Json | None:
    if not rows:
        return None
    alt = "; ".join(f"{row['method']} {row['budget']}: {_cells(row)['difference_text']}" for row in rows)
    caption = (
        "Mark: mean paired difference to random of the same size. Bars: its 95% intervals, taken alone; thin the wide "
        "one, thick that of the same models. Filled triangles "
        "are differences that also hold for all comparisons together (Holm); hollow circles show none."
    )
    return figure("", charts.intervals(rows), alt=alt, caption=caption)


def _overlap_chart(overlap: Json) -> Json:
    size, names = overlap["num_examples"], overlap["methods"]
    pairs = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names))]
    alt = "; ".join(f"{names[i]} and {names[j]}: {100 * overlap['shared'][i][j]:.0f}%" for i, j in pairs)
    chance = overlap["by_chance"]
    by_chance = f" Two subsets drawn blindly share {100 * chance:.0f}%." if chance else ""
    caption = (
        "In percent. Upper right, with the diagonal: share of one subset that is in the other. Lower left: Jaccard, "
        f"common examples over those in either.{by_chance}"
    )
    return figure(f"{overlap['budget']}: {size:,} examples each", charts.overlaps(overlap), alt=alt, caption=caption)


def _family_chart(family: Json) -> Json:
    names = [found["source"] for found in family["sources"]]
    alt = "; ".join(
        f"{row['method']}: "
        + ", ".join(f"{name} {signed(value)}" for name, value in zip(names, row["differences"], strict=True))
        for row in family["rows"]
    )
    counts = [found["num_examples"] for found in family["sources"]]
    caption = (
        f"Score minus random's, in points of 100, over {_range(counts)} held-out examples a family. "
        "No test is made here: single families are a hint of where a difference comes from, not a finding."
    )
    return figure(f"{family['budget']}: by family", charts.families(family), alt=alt, caption=caption)


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _cost_chart(rows: Sequence[Json]) -> Json | None:
    if not rows:
        return None
    alt = "; ".join(f"{row['method']} {row['budget']}: {number(row['choosing'])} seconds" for row in rows)
    caption = (
        "Seconds from landed data to a published subset, as they were when each stage was built, in this comparison or "
        "before. What methods share is charged to each of them in full."
    )
    return figure("What choosing costs", charts.costs(rows), alt=alt, caption=caption)
