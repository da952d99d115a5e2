"""The report as one self-contained HTML page: numbers in, HTML out; no script, no network, no clock.

Owns layout, captions and alternative texts. Refuses to own the numbers: what is not in them is not on the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from xmas_job.reports import charts
from xmas_job.reports.numbers import source_row
from xmas_job.reports.verdict import signed

Json = dict[str, Any]

MAX_ROWS = 20  # sources shown by name
MAX_CLUSTER_ROWS = 10
ABSENT = "–"

_TITLES = {
    "better": "▲ Better than {baseline}",
    "worse": "▼ Worse than {baseline}",
    "no difference": "= No difference shown against {baseline}",
    "mixed": "◆ Mixed: it depends on the benchmark",
    "not measured": "? Not measured",
}


def render(numbers: Json) -> str:
    """The page for the numbers of `build_numbers` (or the same read back from report.json)."""
    clusters, stages = numbers["clusters"], numbers["stages"]
    return template("report.html.j2").render(
        **numbers,
        verdict_title=_verdict_title(numbers),
        difference_chart=_difference_chart(numbers),
        score_charts=_score_charts(numbers),
        source_rows=_source_rows(numbers["sources"]),
        first_clusters=clusters[:MAX_CLUSTER_ROWS],
        cluster_chart=_cluster_chart(clusters),
        panels=_panels(numbers["trajectories"]),
        instability_chart=_instability_chart(numbers["instability"]),
        num_built=sum(stage["status"] == "built" for stage in stages),
        seconds_built=sum(stage["seconds"] for stage in stages if stage["status"] == "built"),
    )


def template(name: str) -> Template:
    """A template of this package, with the filters by which all pages write figures."""
    return _environment().get_template(name)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("xmas_job.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "count": count,
        "share": share,
        "number": number,
        "signed": signed,
        "duration": duration,
        "shortened": shortened,
    }
    return environment


def count(value: int) -> str:
    """1234567 -> 1,234,567."""
    return f"{value:,}"


def share(value: float) -> str:
    """0.1234 -> 12.3%; what is above zero never reads as zero."""
    return "< 0.1%" if 0 < value < 0.0005 else f"{100 * value:.1f}%"


def number(value: float | None) -> str:
    """Four significant digits, or a dash where there is none."""
    return ABSENT if value is None else f"{value:#.4g}".replace("-", "−")


def duration(seconds: float) -> str:
    """3.21 -> 3.2 s, 75 -> 1 min 15 s, 3700 -> 1 h 02 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60:,} h {minutes % 60:02} min"


def shortened(digest: str) -> str:
    """The first 12 hex digits of a digest, as much as a person compares."""
    return digest if len(digest) <= 12 else f"{digest[:12]}…"


def _verdict_title(numbers: Json) -> str:
    evaluation = numbers["evaluation"]
    comparisons = evaluation["comparisons"] if evaluation else []
    baseline = comparisons[0]["baseline"] if comparisons else ""
    return _TITLES[numbers["headline"]["verdict"]].format(baseline=baseline)


def figure(title: str, svg: str, *, alt: str, caption: str) -> Json:
    """What the templates' macro of that name shows."""
    return {"title": title, "svg": svg, "alt": alt, "caption": caption}


def _difference_chart(numbers: Json) -> Json | None:
    evaluation = numbers["evaluation"]
    if not evaluation or not evaluation["comparisons"]:
        return None
    rows = evaluation["comparisons"]
    alt = "; ".join(
        f"{row['benchmark']}: {row['arm']} minus {row['baseline']} {signed(row['mean'])}, "
        f"interval {signed(row['low'])} to {signed(row['high'])}"
        for row in rows
    )
    caption = "Dot: mean paired difference. Bar: its interval. A bar that crosses the line at zero shows no difference."
    return figure("", charts.differences(rows), alt=alt, caption=caption)


def _score_charts(numbers: Json) -> list[Json]:
    evaluation = numbers["evaluation"]
    return [_benchmark_charts(row, evaluation["arms"]) for row in evaluation["benchmarks"]] if evaluation else []


def _benchmark_charts(benchmark: Json, arms: Sequence[str]) -> Json:
    name, metric = benchmark["benchmark"], benchmark["metric"]
    whole = {"source": "all", "num_examples": benchmark["num_examples"], "arms": benchmark["arms"]}
    num_sources = len(benchmark["sources"])
    hidden = f" The other {num_sources - MAX_ROWS} sources are in report.json." if num_sources > MAX_ROWS else ""
    shown = benchmark["sources"][:MAX_ROWS]
    return {
        "name": name,
        "metric": metric,
        "arms": figure(
            f"{name}: {metric} by arm",
            charts.arm_scores(benchmark["arms"]),
            alt=f"{metric} on {name}: {_in_words(benchmark['arms'])}",
            caption=(
                f"One dot for each trained target, bars one standard error over {count(whole['num_examples'])} "
                "held-out examples. Dots of one arm that lie apart show the luck of training."
            ),
        ),
        "sources": figure(
            f"{name}: {metric} by source",
            charts.source_scores(shown, arms),
            alt=f"{metric} by source: " + "; ".join(f"{row['source']}: {_in_words(row['arms'])}" for row in shown),
            caption=(
                "Mean over seeds, bars one standard error. Bars that overlap widely say nothing; sources with few "
                f"held-out examples have wide ones.{hidden}"
            ),
        )
        if shown
        else None,
        "rows": [{**row, "cells": _cells(row["arms"], arms)} for row in (whole, *shown)],
    }


def _in_words(arms: Sequence[Json]) -> str:
    return ", ".join(f"{arm['arm']} {_with_error(arm)}" for arm in arms)


def _with_error(entry: Json) -> str:
    error = entry["standard_error"]
    return f"{entry['mean']:.3f}" if error is None else f"{entry['mean']:.3f} ± {error:.3f}"


def _cells(entries: Sequence[Json], arms: Sequence[str]) -> list[str]:
    by_arm = {entry["arm"]: _with_error(entry) for entry in entries}
    return [by_arm.get(arm, ABSENT) for arm in arms]


def _source_rows(sources: Sequence[Json]) -> list[Json]:
    """The largest sources by name, the others as one row, with bar widths relative to the longest bar."""
    rows = list(sources) if len(sources) <= MAX_ROWS + 1 else [*sources[:MAX_ROWS], _rest(sources)]
    longest = max(max(row["share_pool"], row["share_selected"]) for row in rows)
    return [
        {
            **row,
            "width_pool": f"{100 * row['share_pool'] / longest:.2f}",
            "width_selected": f"{100 * row['share_selected'] / longest:.2f}",
        }
        for row in rows
    ]


def _rest(sources: Sequence[Json]) -> Json:
    rest = sources[MAX_ROWS:]
    totals = [sum(row[key] for row in rows) for rows in (rest, sources) for key in ("num_pool", "num_selected")]
    return source_row(f"{len(rest)} other sources", *totals)


def _cluster_chart(clusters: Sequence[Json]) -> Json | None:
    if not clusters:
        return None
    sizes = [row["num_members"] for row in clusters]
    kept = [row["num_selected"] for row in clusters]
    return figure(
        "Sizes, the largest cluster first",
        charts.cluster_sizes(clusters),
        alt=(
            f"{count(len(clusters))} clusters with {count(min(sizes))} to {count(max(sizes))} examples in the pool and "
            f"{count(min(kept))} to {count(max(kept))} in the subset."
        ),
        caption=(
            "Both lines show the same clusters in the same order. A flat lower line means that every cluster gives the "
            "same number; where the lines meet, a cluster was kept whole. The vertical axis is logarithmic; a gap in "
            "the lower line is a cluster of which nothing was kept."
        ),
    )


def _panels(trajectories: Json | None) -> list[Json]:
    if trajectories is None:
        return []
    drawn = zip(trajectories["panels"], charts.trajectory_panels(trajectories), strict=True)
    return [{**panel, "svg": svg, "alt": _panel_in_words(panel)} for panel, svg in drawn]


def _panel_in_words(panel: Json) -> str:
    first, last = panel["median"][0], panel["median"][-1]
    return f"Cluster {panel['cluster']}: median from {number(first)} to {number(last)} over training."


def _instability_chart(instability: Json | None) -> Json | None:
    if instability is None:
        return None
    medians = (
        f"Median {number(instability['median_kept'])} kept, {number(instability['median_dropped'])} dropped "
        "(dotted lines)."
    )
    beyond = instability["num_beyond"]
    tail = f" The last bin also holds the {count(beyond)} examples beyond the axis." if beyond else ""
    return figure(
        "Instability of kept and dropped examples",
        charts.instability_histogram(instability),
        alt=f"Histogram of instability. {medians}",
        caption=(
            f"Instability is the sum of an example's changes between checkpoints. {medians} "
            "Each curve adds up to 100% of its own group, so the groups compare although one is larger. "
            f"The cut is made inside each cluster, so the two overlap.{tail}"
        ),
    )
