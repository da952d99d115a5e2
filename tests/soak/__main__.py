"""kill -9 at random moments of small runs, until they are through: the same bytes, and nothing left behind.

`python -m tests.soak --kills 50 --seed 7`; outside CI. Every round runs the line in a world of its own, kills it
(the command, or one of its stages) at a random moment, and gives the same command again until it ends by itself.
"""

from __future__ import annotations

import argparse
import json
import random
import secrets
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

from tests.end_to_end.line import RECIPE, World, land
from xmas_job.storage.lease import read_lease
from xmas_job.storage.local import UNFINISHED, LocalStore

COMMAND = ("run", "--run-id", "soak", "--json")
DEADLINE_SECONDS = 300.0
END_SECONDS = 30.0


def run_to_the_end(world: World) -> float:
    """Undisturbed; the seconds it took."""
    started = time.monotonic()
    world.run("--run-id", "soak")
    return time.monotonic() - started


def kill_once(world: World, rng: random.Random, longest_seconds: float) -> str | None:
    """Start the command and kill it, or one of its processes, at a random moment.

    Returns:
        What was killed and when; None if the command had ended by then.
    """
    process = world.start(*COMMAND, "--recipe", str(world.recipe))
    delay = rng.uniform(0, longest_seconds)
    end = time.monotonic() + delay
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    killed, children = None, []
    if process.poll() is None:
        whole = psutil.Process(process.pid)
        children = whole.children(recursive=True)
        victim = rng.choice([whole, *children])
        with suppress(psutil.NoSuchProcess):
            name = "the run" if victim == whole else " ".join(victim.cmdline()[-4:])
            victim.kill()
            killed = f"{name} after {delay:.2f} s"
    process.communicate(timeout=DEADLINE_SECONDS)
    # Stages end when their standard input closes; a processor that is busy may take a moment over it.
    _, left = psutil.wait_procs(children, timeout=END_SECONDS)
    assert not left, f"processes left: {left}"
    return killed


def check_nothing_is_left(world: World) -> None:
    """No scratch, no unfinished file, no lease that somebody seems to hold."""
    assert list((world.folder / "scratch").iterdir()) == [], "scratch is left"
    assert list((world.store / UNFINISHED).iterdir()) == [], "unfinished files are left"
    newest: dict[str, int] = {}
    for path in world.store.glob("artifacts/**/lease/*.json"):
        prefix = path.parent.parent.relative_to(world.store).as_posix()
        newest[prefix] = max(newest.get(prefix, 0), int(path.stem))
    store = LocalStore(world.store)
    held = [prefix for prefix, number in newest.items() if not read_lease(store, prefix, number).is_free]
    assert not held, f"leases left: {held}"


def main() -> None:
    """Print a JSON line a kill, and one at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32), help="Default: a new one, printed.")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    print(json.dumps({"seed": arguments.seed, "kills": arguments.kills}), flush=True)
    with tempfile.TemporaryDirectory(prefix="xmas-soak-") as folder:
        landed = land(Path(folder) / "landed", RECIPE)
        calm = landed.copy(Path(folder) / "calm")
        seconds = run_to_the_end(calm)
        print(json.dumps({"undisturbed_seconds": round(seconds, 1)}), flush=True)
        num_kills = num_rounds = 0
        while num_kills < arguments.kills:
            num_rounds += 1
            world = landed.copy(Path(folder) / "world")
            planned = min(rng.randint(1, 4), arguments.kills - num_kills)
            for _ in range(planned):
                killed = kill_once(world, rng, seconds)
                print(json.dumps({"round": num_rounds, "killed": killed}), flush=True)
                if killed is None:
                    break  # nothing is left to be killed in this world
                num_kills += 1
            run_to_the_end(world)
            assert world.published() == calm.published(), f"round {num_rounds}: other bytes"
            check_nothing_is_left(world)
            shutil.rmtree(world.folder)
    print(json.dumps({"seed": arguments.seed, "rounds": num_rounds, "kills": num_kills, "all_equal": True}))


if __name__ == "__main__":
    main()
