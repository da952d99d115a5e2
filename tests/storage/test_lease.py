from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.processes import Child, wait_until
from xmas_job.errors import TryAgainError
from xmas_job.storage.lease import Lease, acquire, lease_key, try_acquire
from xmas_job.storage.owner import this_process
from xmas_job.storage.roots import open_store
from xmas_job.storage.store import Store


def content(store: Store, number: int) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(store.read(lease_key("p", number)))
    return read


def take(store: Store, *, ttl: float = 60.0, timeout: float = 60.0, is_done: Callable[[], bool] = bool) -> Lease | None:
    return acquire(store, "p", ttl_seconds=ttl, timeout_seconds=timeout, is_done=is_done)


def test_first_taker_gets_number_one_and_others_nothing(store: Store) -> None:
    lease = try_acquire(store, "p", 60)
    assert lease is not None
    with lease:
        assert lease.number == 1
        assert try_acquire(store, "p", 60) is None
        assert try_acquire(store, "q", 60) is not None, "another address has its own lease"


def test_released_lease_is_free_at_once(store: Store) -> None:
    for number in (1, 2, 3):
        lease = try_acquire(store, "p", 60)
        assert lease is not None
        with lease:
            assert lease.number == number
        assert content(store, number)["released"] is True


def test_lease_is_released_when_the_work_fails(store: Store) -> None:
    lease = take(store)
    assert lease is not None
    with pytest.raises(ZeroDivisionError), lease:
        raise ZeroDivisionError
    assert content(store, 1)["released"] is True


def test_wait_ends_without_a_lease_once_the_work_is_there(store: Store) -> None:
    with held(store):
        looks = iter([False, False, True])
        assert take(store, is_done=lambda: next(looks)) is None
    assert not store.exists(lease_key("p", 2))


def held(store: Store, ttl: float = 60.0) -> Lease:
    lease = try_acquire(store, "p", ttl)
    assert lease is not None
    return lease


def test_waiter_takes_over_as_soon_as_the_lease_is_released(store: Store) -> None:
    taken: list[Lease | None] = []
    with held(store):
        waiter = threading.Thread(target=lambda: taken.append(take(store)))
        waiter.start()
    waiter.join(30)
    assert taken[0] is not None
    assert taken[0].number == 2


def test_heartbeat_moves_while_the_lease_is_held(store: Store) -> None:
    with held(store, ttl=0.2):
        wait_until(lambda: content(store, 1)["beat"] >= 3, "three heartbeats")
        assert content(store, 1)["owner"] == this_process().to_json()
        assert content(store, 1)["released"] is False
    last = content(store, 1)["beat"]
    assert last >= 3
    assert content(store, 1)["beat"] == last, "no heartbeat after the release"


def test_heart_that_stands_still_for_the_ttl_is_taken_over(store: Store) -> None:
    """The owner lives, but its heartbeat never started: as a process that hangs, or one on another machine."""
    held(store)
    started = time.monotonic()
    lease = take(store, ttl=0.6)
    assert lease is not None
    assert lease.number == 2
    assert time.monotonic() - started >= 0.6


def test_moving_heartbeat_is_respected_until_the_timeout(store: Store) -> None:
    with held(store, ttl=0.5), pytest.raises(TryAgainError, match="is still being built by") as caught:
        take(store, ttl=3.0, timeout=0.5)
    assert caught.value.exit_code == 75
    assert not store.exists(lease_key("p", 2))


def test_heartbeat_of_a_lost_lease_does_not_touch_the_new_one(store: Store) -> None:
    with held(store, ttl=0.2) as first:
        assert store.create(lease_key("p", 2), store.read(lease_key("p", 1)).replace(b'"beat": 0', b'"beat": 77'))
        before = content(store, 1)["beat"]
        wait_until(lambda: content(store, 1)["beat"] > before + 2, "more heartbeats")
        assert content(store, 2)["beat"] == 77
        assert first.number == 1
    assert content(store, 2)["released"] is False


def test_lease_of_a_dead_process_is_free_at_once(store: Store) -> None:
    code = (
        "import os, sys; from xmas_job.storage.lease import try_acquire; from xmas_job.storage.roots import open_store;"
        "try_acquire(open_store(sys.argv[1]), 'p', 3600).__enter__(); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code, store.uri], check=False)
    assert killed.returncode == -9
    assert content(store, 1)["released"] is False
    lease = try_acquire(store, "p", 3600)
    assert lease is not None
    assert lease.number == 2


def _take_and_tell(uri: str) -> int:
    """Number of the lease under which this process did the work; 0 if another one did."""
    store = open_store(uri)
    lease = acquire(store, "p", ttl_seconds=60, timeout_seconds=60, is_done=lambda: store.exists("done"))
    if lease is None:
        return 0
    with lease:
        if store.exists("done"):  # between the last look and the lease
            return 0
        assert store.create("at-work", b""), "two processes hold the lease at once"
        wait_until(lambda: store.exists("go"), "the go")
        store.put("done", b"")
        store.delete("at-work")
    return lease.number


def test_eight_processes_take_one_lease_between_them(store: Store, start: Callable[..., Child]) -> None:
    children = [start(_take_and_tell, store.uri) for _ in range(8)]
    wait_until(lambda: store.exists("at-work"), "one of them to be at work")
    store.put("go", b"")
    assert sorted(child.result() for child in children) == [0] * 7 + [1]
