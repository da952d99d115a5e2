"""The speed that is promised for tables and images: `python -m tests.benchmarks.tables [--json]`.

Ratios against bare loops within one run, both sides under the same settings, in turns, the best round of each.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.benchmarks import json_rows, pictures, synthetic_line

MIN_ROWS_RATIO = 0.7
MAX_IMAGES_RATIO = 1.3
MAX_LINE_SECONDS = 120.0
MAX_LINE_GB = 4.0
PARTS = ("rows", "images", "line")


def main() -> None:
    """Measure, print, and exit with 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--only", choices=PARTS, action="append", help="measure only this; may be repeated")
    parser.add_argument("--num-rows", type=int, default=30_000)
    parser.add_argument("--num-images", type=int, default=400)
    parser.add_argument("--num-examples", type=int, default=1_000_000, help="of the line's pool")
    parser.add_argument("--num-clusters", type=int, default=1000)
    parser.add_argument("--num-rounds", type=int, default=5)
    parser.add_argument("--num-threads", type=int, default=2, help="that decode images")
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: the system's temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        results = measure(Path(folder), options)
    print(json.dumps(results, indent=2) if options.json else _as_text(results))
    if missed := [name for name, result in results.items() if not result["is_met"]]:
        raise SystemExit(f"missed: {', '.join(missed)}")


def measure(folder: Path, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Part -> its figures, its target and whether that is met."""
    parts = options.only or PARTS
    results: dict[str, dict[str, Any]] = {}
    if "rows" in parts:
        rows = json_rows.measure(options.num_rows, options.num_rounds)
        results["rows"] = {**rows, "target": MIN_ROWS_RATIO, "is_met": rows["ratio"] >= MIN_ROWS_RATIO}
    if "images" in parts:
        (folder / "images").mkdir()
        images = pictures.measure(folder / "images", options.num_images, options.num_rounds, options.num_threads)
        is_met = images["times_as_long"] <= MAX_IMAGES_RATIO
        results["images"] = {**images, "target": MAX_IMAGES_RATIO, "is_met": is_met}
    if "line" in parts:
        costs = synthetic_line.run_line(folder, options.num_examples, options.num_clusters)
        seconds, peak = sum(cost.wall_seconds for cost in costs), max(cost.peak_rss_gb for cost in costs)
        results["line"] = {
            "num_examples": options.num_examples,
            "wall_seconds": seconds,
            "cpu_seconds": sum(cost.cpu_seconds for cost in costs),
            "peak_rss_gb": peak,
            "stages": [asdict(cost) for cost in costs],
            "target": [MAX_LINE_SECONDS, MAX_LINE_GB],
            "is_met": seconds <= MAX_LINE_SECONDS and peak <= MAX_LINE_GB,
        }
    return results


def _as_text(results: dict[str, dict[str, Any]]) -> str:
    lines = []
    for part, figures in results.items():
        lines.append(part)
        for name, value in figures.items():
            lines.append(f"  {name}: {value:,.2f}" if isinstance(value, float) else f"  {name}: {value}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
