"""Clearings of a store in a loop while runs start, build, find and end there: every run ends with the same bytes.

`python -m tests.soak.clearing --minutes 5`; outside CI. A clearing keeps next to nothing, so that runs lose what they
would have found to it again and again, at whatever moment it comes.
"""

from __future__ import annotations

import argparse
import json
import random
import secrets
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.end_to_end.line import RECIPE, World, land

NUM_CHOICES = 24
NUM_RUNNERS = 2
LONGEST_PAUSE_SECONDS = 30.0
RESTING_HOURS = "0.005"  # 18 s: longer than a process of a busy machine needs to say that it is there
CLEAR = ("gc", "--delete", "--keep-runs", "0", "--keep-moves", "1", "--keep-hours", RESTING_HOURS, "--json")
DEADLINE_SECONDS = 300.0


def recipe(world: World, choice: int) -> str:
    """A recipe without a proxy: seconds a run. Every choice has a pool of its own, and shares what was ingested."""
    path = world.folder / f"{choice}.yaml"
    section = {"select": {"method": "random"}, "pool": {"excluded_uids": [f"{choice:032x}"]}}
    path.write_text(json.dumps({**RECIPE, **section}))
    return str(path)


def finish(process: subprocess.Popen[str]) -> dict[str, object]:
    """What the process printed; it must have ended well."""
    stdout, stderr = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0, stderr[-3000:]
    result: dict[str, object] = json.loads(stdout)
    return result


def start(world: World, choice: int) -> subprocess.Popen[str]:
    """A run of its own id."""
    return world.start("run", "--recipe", recipe(world, choice), "--json")


def main() -> None:
    """Print a JSON line at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32), help="Default: a new one, printed.")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    print(json.dumps({"seed": arguments.seed}), flush=True)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="xmas-soak-") as folder:
        landed = land(Path(folder) / "landed", RECIPE)
        calm = landed.copy(Path(folder) / "calm")
        expected = {choice: finish(start(calm, choice))["selection_id"] for choice in range(NUM_CHOICES)}
        world = landed.copy(Path(folder) / "world")
        end = time.monotonic() + 60 * arguments.minutes
        end_of_burst = end
        runs: list[tuple[int, subprocess.Popen[str]]] = []
        while time.monotonic() < end or runs:
            if not runs:
                time.sleep(rng.uniform(0, LONGEST_PAUSE_SECONDS))  # at times all of it goes
                end_of_burst = time.monotonic() + LONGEST_PAUSE_SECONDS
            while len(runs) < NUM_RUNNERS and time.monotonic() < min(end, end_of_burst):
                choice = rng.randrange(NUM_CHOICES)
                runs.append((choice, start(world, choice)))
            cleared = finish(world.start(*CLEAR))
            counts["clearings"] += 1
            counts["deleted"] += len(cleared["items"])  # type: ignore[arg-type]
            for ended in [run for run in runs if run[1].poll() is not None]:
                runs.remove(ended)
                result = finish(ended[1])
                assert result["selection_id"] == expected[ended[0]], ended
                verified = world.call("verify", str(result["selection_id"]))
                assert verified.returncode == 0, verified.stderr
                counts["runs"] += 1
                for stage in result["stages"]:  # type: ignore[attr-defined]
                    counts[stage["status"]] += 1
    print(json.dumps({"seed": arguments.seed, **counts, "all_equal": True}))


if __name__ == "__main__":
    main()
