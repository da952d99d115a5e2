"""Every call of a small run on S3 spoiled once, one at a time: the same bytes, and never half of anything."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from botocore.retries import standard

from tests.fault_proxy import FAULTS, FaultProxy, fault_proxy
from tests.s3_servers import S3Server
from tests.storage.whole import check_that_all_is_whole
from tests.toy_line import NODES, toy_runner
from xmas_job.errors import TryAgainError
from xmas_job.storage.roots import open_store
from xmas_job.storage.s3 import S3Store
from xmas_job.storage.store import Store

pytestmark = pytest.mark.end_to_end

NUM_EXAMPLES = 4  # one partition


@dataclass(frozen=True)
class Trial:
    """The toy line on stores behind a proxy, and what it makes undisturbed."""

    proxy: FaultProxy
    behind: S3Store
    direct: S3Store
    folder: Path

    def new_stores(self) -> tuple[Store, Store]:
        """An empty store, seen through the proxy and seen by an undisturbed reader."""
        prefix = uuid.uuid4().hex
        pair = (
            object.__new__(S3Store),
            object.__new__(S3Store),
        )  # with the clients that are there: to make one takes long
        for store, like in zip(pair, (self.behind, self.direct), strict=True):
            store.__dict__ = {**like.__dict__, "_prefix": prefix}
        return pair

    def run(self, store: Store) -> dict[str, str]:
        runner = toy_runner(self.folder, {"lease_ttl_seconds": 2.0}, store=store, num_examples=NUM_EXAMPLES)
        return {node_id: runner.run_stage(node_id).artifact.record.digest for node_id in NODES}


@pytest.fixture(scope="module")
def trial(moto: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    folder = tmp_path_factory.mktemp("faults")
    with fault_proxy(moto.endpoint) as proxy, pytest.MonkeyPatch.context() as patch:
        variables = {**moto.variables, "XMAS_SCRATCH": str(folder / "cache"), "XMAS_S3_TIMEOUT_SECONDS": "0.25"}
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setattr(standard.ExponentialBackoff, "delay_amount", lambda *_: 0.001)
        direct = open_store(moto.new_root())
        patch.setenv("XMAS_S3_ENDPOINT", proxy.endpoint)
        behind = open_store(direct.uri)
        assert isinstance(direct, S3Store)
        assert isinstance(behind, S3Store)
        yield Trial(proxy, behind, direct, folder)


@pytest.mark.parametrize("fault", FAULTS)
def test_run_ends_with_the_same_bytes_whatever_happens_to_a_call(trial: Trial, fault: str) -> None:
    store, reader = trial.new_stores()
    trial.proxy.plan("", -1)
    undisturbed = trial.run(store)
    num_stopped = 0
    for call in itertools.count():
        store, reader = trial.new_stores()
        trial.proxy.plan(fault, call)
        try:
            digests = trial.run(store)
        except TryAgainError:
            num_stopped += 1
            check_that_all_is_whole(reader)
            digests = trial.run(store)
        assert digests == undisturbed, call
        check_that_all_is_whole(reader)
        if trial.proxy.num_requests <= call:  # it ended before that call; on a busy machine a retry may add some
            break
    print(f"{fault}: {call} calls, {num_stopped} runs stopped and were run again")
    assert call > 30
    # What a server or a network does in passing costs a retry. A refusal that nothing explains may stop the run.
    assert num_stopped == 0 or fault in {"412", "409"}
