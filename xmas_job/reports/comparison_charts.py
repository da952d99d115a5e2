"""The charts of a comparison: intervals of all methods, heat maps of overlaps and families, seconds by purpose.

Owns marks only; colours and font are the page's, as in `charts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from xmas_job.reports.charts import ARM_3, ARM_4, GRID, INK, KEPT, MUTED, POOL, RANDOM, draw, short_label

Json = dict[str, Any]

_PURPOSES = {"data": POOL, "proxy": ARM_4, "signals": KEPT, "choice": ARM_3}
_LABEL = 22


def method_label(name: str) -> str:
    """A method or family on one short line; of "module:class", the class."""
    return short_label(name if len(name) <= _LABEL else name.rpartition(":")[2], _LABEL)


def intervals(rows: Sequence[Json]) -> str:
    """Two intervals a method and budget, thin over seeds too, thick over examples alone; hollow where none is shown."""
    return draw((430, 66 + 24 * len(rows)), _plot_intervals, rows)


def _plot_intervals(axes: Axes, rows: Sequence[Json]) -> None:
    for place, row in enumerate(rows):
        found = row["difference"]
        colour = RANDOM if found["verdict"] == "worse" else KEPT
        marker = {"better": ">", "worse": "<"}.get(found["verdict"], "o")
        fill = "none" if found["verdict"] == "no difference" else colour
        for ends, width in ((found, 1.5), (found["same_models"], 5.0)):
            axes.plot([ends["low"], ends["high"]], [place, place], color=colour, linewidth=width, solid_capstyle="butt")
        axes.plot([found["mean"]], [place], color=colour, marker=marker, markersize=9, markerfacecolor=fill, mew=1.8)
    axes.axvline(0, color=INK, linewidth=1.4)
    reach = 1.1 * max(max(abs(row["difference"]["low"]), abs(row["difference"]["high"])) for row in rows) or 1.0
    axes.set_xlim(-reach, reach)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_yticks(range(len(rows)), [_row_label(row) for row in rows])
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, symmetric=True))
    axes.set_xlabel("difference to random")
    axes.grid(visible=False, axis="y")


def _row_label(row: Json) -> str:
    return f"{method_label(row['method'])} {row['budget']}"


def overlaps(overlap: Json) -> str:
    """Share of examples in common above the diagonal, Jaccard below; the diagonal is a subset with itself."""
    names, size = overlap["methods"], len(overlap["methods"])
    cells = [
        [overlap["shared" if column >= row else "jaccard"][row][column] for column in range(size)]
        for row in range(size)
    ]
    texts = [[f"{100 * value:.0f}" for value in row] for row in cells]
    return draw((max(430, 150 + 42 * size), 110 + 30 * size), _plot_cells, cells, texts, names, names)


def families(family: Json) -> str:
    """Score minus random's by source of the held-out examples; one colour above random, another below."""
    rows = family["rows"]
    reach = max((abs(value) for row in rows for value in row["differences"]), default=0.0) or 1.0
    cells = [[value / reach for value in row["differences"]] for row in rows]
    texts = [[_points(value) for value in row["differences"]] for row in rows]
    sources = [found["source"] for found in family["sources"]]
    size = (max(430, 150 + 42 * len(sources)), 130 + 28 * len(rows))
    return draw(size, _plot_cells, cells, texts, [row["method"] for row in rows], sources)


def _points(value: float) -> str:
    """In hundredths with a typographic minus, and no sign on zero."""
    text = f"{100 * value:+.0f}"
    return "0" if float(text) == 0 else text.replace("-", "−")


def _plot_cells(
    axes: Axes,
    cells: Sequence[Sequence[float]],
    texts: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
) -> None:
    """Cells of -1..1: the stronger the tint the farther from 0, so that ink stays readable on light and dark paper."""
    for place, row in enumerate(cells):
        for column, value in enumerate(row):
            colour, tint = (KEPT if value > 0 else RANDOM), 0.55 * min(abs(value), 1.0)
            axes.add_patch(Rectangle((column - 0.5, place - 0.5), 1, 1, facecolor=colour, alpha=tint, linewidth=0))
            axes.text(column, place, texts[place][column], ha="center", va="center", color=INK, fontsize=11)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xticks(range(len(columns)), [method_label(name) for name in columns], rotation=40, ha="right")
    axes.set_yticks(range(len(rows)), [method_label(name) for name in rows])
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)


def costs(rows: Sequence[Json]) -> str:
    """Seconds of choosing, one bar a method and budget, in parts by what they are for; target trainings left out."""
    return draw((430, 92 + 24 * len(rows)), _plot_costs, rows)


def _plot_costs(axes: Axes, rows: Sequence[Json]) -> None:
    for place, row in enumerate(rows):
        left = 0.0
        for purpose, colour in _PURPOSES.items():
            seconds = row["groups"][purpose]
            label = purpose if place == 0 else None
            axes.barh(place, seconds, left=left, height=0.62, color=colour, label=label, edgecolor=GRID, linewidth=0.6)
            left += seconds
        axes.text(left, place, f" {left:,.0f}", va="center", color=MUTED, fontsize=11)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), [_row_label(row) for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.12)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.set_xlabel("seconds")
    axes.grid(visible=False, axis="y")
    axes.figure.legend(loc="outside upper center", ncols=len(_PURPOSES))
