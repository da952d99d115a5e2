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
from typing import Any

import pyarrow.parquet as pq

from tests.end_to_end.line import RECIPE, World, land

NUM_CHOICES = 12
NUM_RUNNERS = 2
LONGEST_DELAY_SECONDS = 3.0
RESTING_HOURS = 0.005  # 18 s: longer than a process of a busy machine needs to say that it is there
CLEAR = ("gc", "--delete", "--keep-runs", "0", "--keep-moves", "1", "--keep-hours", str(RESTING_HOURS), "--json")
DEADLINE_SECONDS = 300.0


def recipe(world: World, excluded: str) -> str:
    """A recipe without a proxy: seconds a run. Every excluded uid makes a pool of its own, of what all share."""
    path = world.folder / f"{excluded}.yaml"
    section = {"select": {"method": "random"}, "pool": {"excluded_uids": [excluded]}}
    path.write_text(json.dumps({**RECIPE, **section}))
    return str(path)


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What the process printed; it must have ended well."""
    stdout, stderr = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0, stderr[-3000:]
    result: dict[str, Any] = json.loads(stdout)
    return result


def check(clearing: subprocess.Popen[str]) -> Counter[str]:
    """What a clearing that ended well did."""
    items = finish(clearing)["items"]
    return Counter({"clearings": 1, "deleted": len(items), "clearings_that_deleted": bool(items)})


def start(world: World, excluded: str) -> subprocess.Popen[str]:
    """A run of its own id."""
    return world.start("run", "--recipe", recipe(world, excluded), "--json")


def some_uids(world: World) -> list[str]:
    """Of examples that are in its pool."""
    (table,) = world.store.glob("artifacts/pool/*/attempts/*/pool.parquet")
    uids: list[str] = pq.read_table(table, columns=["uid"])["uid"].to_pylist()
    return uids[:NUM_CHOICES]


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
        finish(start(calm, "0" * 32))
        expected = {uid: finish(start(calm, uid))["selection_id"] for uid in some_uids(calm)}
        assert len(set(expected.values())) == NUM_CHOICES
        world = landed.copy(Path(folder) / "world")
        end = time.monotonic() + 60 * arguments.minutes
        while time.monotonic() < end:
            # As long as a run has just started, next to nothing goes: it might still find it. So let all come to rest,
            # and start the next runs at any moment of a clearing.
            time.sleep(RESTING_HOURS * 3600)
            clearing = world.start(*CLEAR)
            runs = []
            for uid in rng.sample(sorted(expected), NUM_RUNNERS):
                time.sleep(rng.uniform(0, LONGEST_DELAY_SECONDS))
                runs.append((uid, start(world, uid)))
            counts += check(clearing)
            while any(process.poll() is None for _, process in runs):
                counts += check(world.start(*CLEAR))
            for uid, process in runs:
                result = finish(process)
                assert result["selection_id"] == expected[uid], uid
                counts += Counter(stage["status"] for stage in result["stages"])
                counts["runs"] += 1
            for uid, _ in runs:
                proved = world.call("verify", expected[uid])
                assert proved.returncode == 0, proved.stderr
    print(json.dumps({"seed": arguments.seed, **counts, "all_equal": True}))


if __name__ == "__main__":
    main()
