"""Every call of the whole line on S3 spoiled at its first try: the same bytes, or a clean stop and a rerun that ends.

`python -m tests.soak.calls --faults lost 412`; outside CI, where `tests/storage/test_s3_faults.py` spoils a toy line
call by call. A request that was spoiled passes when it is repeated, so each call meets its fault apart from the others.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.line import COMPARISON, RECIPE, World, land
from tests.fault_proxy import FAULTS, FaultProxy, fault_proxy
from tests.s3_servers import S3Server, moto_server
from tests.storage.whole import check_that_all_is_whole
from xmas_job.errors import TryAgainError
from xmas_job.storage.roots import open_store
from xmas_job.storage.store import Store

DEADLINE_SECONDS = 1800.0
MOST_RERUNS = 400


@dataclass(frozen=True)
class Bench:
    """A landed world, the server, and the proxy before it."""

    world: World
    server: S3Server
    proxy: FaultProxy

    def new_store(self) -> Store:
        """A store with what has landed, past the proxy."""
        store = open_store(self.server.new_root())
        for path in sorted(found for found in self.world.store.rglob("*") if found.is_file()):
            store.put(path.relative_to(self.world.store).as_posix(), path.read_bytes())
        return store

    def try_run(self, store: Store) -> int:
        """Exit code of the line, through the proxy."""
        variables = {
            **self.server.variables,
            "XMAS_S3_ENDPOINT": self.proxy.endpoint,
            "XMAS_S3_TIMEOUT_SECONDS": "1",
            "XMAS_STORE_ROOT": store.uri,
        }
        process = self.world.start(
            "run", "--recipe", str(self.world.recipe), "--run-id", "spoiled", "--json", variables=variables
        )
        _, stderr = process.communicate(timeout=DEADLINE_SECONDS)
        assert process.returncode in {0, TryAgainError.exit_code}, stderr[-3000:]
        return process.returncode


def published(store: Store) -> dict[str, bytes]:
    """What a consumer reads; not where and when it was built."""
    keys = [entry.key for entry in store.list("selections") if not entry.key.endswith("provenance.json")]
    return {key: store.read(key) for key in keys}


def spoil(bench: Bench, fault: str, undisturbed: dict[str, bytes]) -> dict[str, Any]:
    """Run the line with `fault` at the first try of every call, again after each stop, until it ends."""
    bench.proxy.spoil_first_tries(fault)
    store, started, num_stops = bench.new_store(), time.monotonic(), 0
    while bench.try_run(store) != 0:
        num_stops += 1
        assert num_stops < MOST_RERUNS, "it never ends"
        check_that_all_is_whole(store)
    check_that_all_is_whole(store)
    assert published(store) == undisturbed, "other bytes"
    seconds = round(time.monotonic() - started, 1)
    counts = {"requests": bench.proxy.num_requests, "spoiled": bench.proxy.num_spoiled}
    return {"fault": fault, **counts, "stops": num_stops, "seconds": seconds, "equal": True}


def main() -> None:
    """Print a JSON line a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=FAULTS)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="xmas-soak-") as folder,
        moto_server() as server,
        fault_proxy(server.endpoint) as proxy,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in {**server.variables, "XMAS_SCRATCH": f"{folder}/cache"}.items():
            patch.setenv(name, value)
        bench = Bench(land(Path(folder) / "landed", {**RECIPE, "comparison": COMPARISON}), server, proxy)
        calm = bench.new_store()
        assert bench.try_run(calm) == 0
        undisturbed = published(calm)
        print(json.dumps({"requests": proxy.num_requests, "files": len(undisturbed)}), flush=True)
        for fault in arguments.faults:
            print(json.dumps(spoil(bench, fault, undisturbed)), flush=True)


if __name__ == "__main__":
    main()
