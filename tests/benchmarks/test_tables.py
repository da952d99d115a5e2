"""The benchmarks run, and what they compare is the same work; whether the targets are met is not asked here."""

from __future__ import annotations

import json
import subprocess
import sys


def test_small_benchmark_measures_every_part() -> None:
    sizes = {"rows": 200, "images": 12, "examples": 3000, "clusters": 20, "rounds": 1}
    options = [option for name, size in sizes.items() for option in (f"--num-{name}", str(size))]
    command = [sys.executable, "-m", "tests.benchmarks.tables", "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("{"), done.stderr
    results = json.loads(done.stdout)
    assert (done.returncode == 0) == all(result["is_met"] for result in results.values())
    assert 900 < results["rows"]["bytes_a_row"] < 1050
    assert results["rows"]["ratio"] > 0
    assert results["images"]["times_as_long"] > 0
    line = results["line"]
    assert [cost["stage"] for cost in line["stages"]] == ["pool", "cluster", "select:subset", "publish:subset"]
    assert all(cost["cpu_seconds"] > 0 for cost in line["stages"])
    assert 0.05 < line["peak_rss_gb"] < 1
