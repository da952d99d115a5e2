"""The charts of the page as inline SVG strings, drawn by matplotlib without a display, the same bytes every time.

Owns axes and marks. Refuses to own colours: marks are drawn in placeholder colours that become CSS variables of the
page, so light and dark mode are the page's business; text stays text in the page's own font.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

Arguments = ParamSpec("Arguments")
Json = dict[str, Any]

# Placeholder colour -> variable in report.css. The placeholders are never seen.
_COLOURS = {
    "#010101": "--ink",
    "#010102": "--muted",
    "#010103": "--grid",
    "#010104": "--pool",
    "#010105": "--kept",
    "#010106": "--random",
    "#010107": "--arm-3",
    "#010108": "--arm-4",
}
INK, MUTED, GRID, POOL, KEPT, RANDOM, ARM_3, ARM_4 = _COLOURS
# An arm is told apart by its shape as well as by its colour.
_REFERENCE_STYLES = {"random": (RANDOM, "s"), "full": (POOL, "D")}
_OTHER_STYLES = ((KEPT, "o"), (ARM_3, "^"), (ARM_4, "v"))

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a $ in a name is a dollar
    "axes.unicode_minus": True,
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same layout on every machine
    "font.size": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.labelsize": 12,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
_UNITS_PER_INCH = 72  # matplotlib's SVG unit is the point


def draw(
    size: tuple[float, float],
    plot: Callable[Concatenate[Axes, Arguments], None],
    *arguments: Arguments.args,
    **named: Arguments.kwargs,
) -> str:
    """The SVG of `plot(axes, *arguments)`, `size` units wide and high, ready to stand inside HTML."""
    with mpl.rc_context(), warnings.catch_warnings():
        # The reader's browser draws the text; matplotlib's own font may lack the glyphs of a name.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        mpl.rcdefaults()  # whatever matplotlibrc lies on this machine
        # Ids inside an SVG are salted hashes: fixed from run to run, and no chart of the page reuses another's.
        mpl.rcParams.update(_STYLE | {"svg.hashsalt": f"{plot.__name__} {arguments!r}"})
        width, height = (length / _UNITS_PER_INCH for length in size)
        figure = Figure(figsize=(width, height), layout="constrained")
        plot(figure.add_subplot(), *arguments, **named)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _inline(buffer.getvalue())


def _inline(svg: str) -> str:
    """Strip what only a stand-alone file needs, and hand colours and font over to the page's style sheet."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"| version="1.1"', "", svg)
    svg = re.sub(r'<svg([^>]*?) width="[^"]*"', r"<svg\1", svg, count=1)
    svg = re.sub(r'<svg([^>]*?) height="[^"]*"', r'<svg\1 aria-hidden="true" focusable="false"', svg, count=1)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # figure_1, axes_1, ... would repeat from chart to chart
    svg = svg.replace("font-family: 'DejaVu Sans'", "font-family: var(--font)")
    for placeholder, variable in _COLOURS.items():
        svg = svg.replace(placeholder, f"var({variable})")
    return re.sub(r"\n\s*", "\n", svg)


def cluster_sizes(clusters: Sequence[Json]) -> str:
    """Members and selected members of every cluster, the largest first; logarithmic size axis."""
    return draw((400, 255), _plot_cluster_sizes, clusters)


def _plot_cluster_sizes(axes: Axes, clusters: Sequence[Json]) -> None:
    position = range(1, len(clusters) + 1)
    marker = "o" if len(clusters) <= 60 else ""
    members = [row["num_members"] for row in clusters]
    selected = [row["num_selected"] or math.nan for row in clusters]
    axes.plot(position, members, color=POOL, marker=marker, markersize=4, linewidth=1.6, label="in the pool")
    axes.plot(position, selected, color=KEPT, marker=marker, markersize=4, linewidth=1.6, label="in the subset")
    axes.set_xlim(0.5, len(clusters) + 0.5)
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.8)
    _plain_numbers(axes)
    axes.set_xlabel("clusters, the largest first")
    axes.set_ylabel("examples")
    axes.legend(loc="upper right")


def _plain_numbers(axes: Axes) -> None:
    """Powers of ten as 1, 10, 100, 1k, 10k: `10^3` needs mathtext, which draws shapes instead of text."""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


def short_count(value: float) -> str:
    """1234 -> 1.2k, 5000000 -> 5M; for axis ticks."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def trajectory_panels(trajectories: Json) -> list[str]:
    """One small chart a cluster, all on the same axes: the band from the 10th to the 90th percentile and the median."""
    panels = trajectories["panels"]
    low = min(min(panel["low"]) for panel in panels)
    high = max(max(panel["high"]) for panel in panels)
    margin = 0.05 * (high - low) or 0.5
    limits = (low - margin, high + margin)
    return [draw((230, 150), _plot_panel, panel, trajectories["positions"], limits) for panel in panels]


def _plot_panel(axes: Axes, panel: Json, positions: Sequence[float], limits: tuple[float, float]) -> None:
    seen = [100 * position for position in positions]
    axes.fill_between(seen, panel["low"], panel["high"], color=KEPT, alpha=0.22, linewidth=0)
    axes.plot(seen, panel["median"], color=KEPT, linewidth=2, marker="o", markersize=3.5)
    axes.set_ylim(*limits)
    axes.set_xlim(0, 104)
    axes.set_xticks([0, 50, 100], ["0", "50", "100%"])
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))


def instability_histogram(instability: Json) -> str:
    """Share of the kept and of the dropped examples in each bin of instability, with both medians."""
    return draw((400, 255), _plot_instability, instability)


def _plot_instability(axes: Axes, instability: Json) -> None:
    edges = instability["edges"]
    groups = (("kept", KEPT, "-", 0.22), ("dropped", RANDOM, "--", 0.0))
    for name, colour, line, opacity in groups:
        counts = instability[f"num_{name}"]
        if not sum(counts):
            continue
        shares = [100 * count / sum(counts) for count in counts]
        axes.stairs(shares, edges, color=colour, linewidth=1.6, linestyle=line, label=name)
        if opacity:
            axes.stairs(shares, edges, fill=True, color=colour, alpha=opacity, linewidth=0)
        axes.axvline(instability[f"median_{name}"], color=colour, linewidth=1.2, linestyle=":")
    axes.set_xlabel("instability")
    axes.set_ylabel("% of the group")
    axes.legend(loc="upper right")


def differences(comparisons: Sequence[Json]) -> str:
    """One interval a comparison, with the line at zero that decides the verdict."""
    return draw((340, 76 + 26 * len(comparisons)), _plot_differences, comparisons)


def _plot_differences(axes: Axes, comparisons: Sequence[Json]) -> None:
    for place, row in enumerate(comparisons):
        axes.plot([row["low"], row["high"]], [place, place], color=KEPT, linewidth=3.5, solid_capstyle="butt")
        axes.plot([row["mean"]], [place], color=KEPT, marker="o", markersize=9)
    axes.axvline(0, color=INK, linewidth=1.4)
    reach = 1.2 * max(max(abs(row["low"]), abs(row["high"])) for row in comparisons) or 1.0
    axes.set_xlim(-reach, reach)
    axes.set_ylim(len(comparisons) - 0.4, -0.6)
    labels = [row["benchmark"] for row in comparisons] if len(comparisons) > 1 else [""]
    axes.tick_params(axis="y", length=0)
    axes.set_yticks(range(len(comparisons)), [short_label(label, 14) for label in labels])
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, symmetric=True))
    axes.set_title(f"← {comparisons[0]['baseline']} better", loc="left", fontsize=12)
    axes.set_title(f"{comparisons[0]['arm']} better →", loc="right", fontsize=12)
    axes.grid(visible=False, axis="y")


def arm_scores(arms: Sequence[Json]) -> str:
    """One row an arm with a dot and an error bar (one standard error) for each of its seeds."""
    rows = [{"label": arm["arm"], "arms": [{"arm": arm["arm"], **seed} for seed in arm["seeds"]]} for arm in arms]
    return draw(_rows_size(rows), _plot_scores, rows, [arm["arm"] for arm in arms])


def source_scores(sources: Sequence[Json], arms: Sequence[str]) -> str:
    """One row a source with a dot and an error bar (one standard error) for each arm, and a legend."""
    rows = [{"label": row["source"], "arms": row["arms"]} for row in sources]
    return draw(_rows_size(rows), _plot_scores, rows, arms, legend=True)


def _rows_size(rows: Sequence[Json]) -> tuple[float, float]:
    return 400, 60 + sum(max(24, 12 * len(row["arms"])) for row in rows)


def _plot_scores(axes: Axes, rows: Sequence[Json], arms: Sequence[str], *, legend: bool = False) -> None:
    styles = arm_styles(arms)
    for place, row in enumerate(rows):
        for index, entry in enumerate(row["arms"]):
            height = place + 0.7 * ((index + 0.5) / len(row["arms"]) - 0.5)
            colour, marker = styles[entry["arm"]]
            error = entry["standard_error"]
            axes.errorbar([entry["mean"]], [height], xerr=error, color=colour, fmt=marker, markersize=6, elinewidth=1.8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_yticks(range(len(rows)), [short_label(row["label"]) for row in rows])
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.grid(visible=False, axis="y")
    for place in range(1, len(rows)):
        axes.axhline(place - 0.5, color=GRID, linewidth=0.8)
    if legend:
        handles = [Line2D([], [], color=styles[arm][0], marker=styles[arm][1], label=arm) for arm in arms]
        axes.figure.legend(handles=handles, loc="outside upper center", ncols=len(arms))


def arm_styles(arms: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker an arm; random and full always look the same, from report to report."""
    others = [arm for arm in arms if arm not in _REFERENCE_STYLES]
    return _REFERENCE_STYLES | {arm: _OTHER_STYLES[i % len(_OTHER_STYLES)] for i, arm in enumerate(others)}


def short_label(text: str, length: int = 24) -> str:
    """One printable line of at most `length` characters: names come from the data and may hold anything."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= length else f"{line[: length - 1]}…"
