"""Leases: one worker builds an artifact, the others wait and read.

Owns taking, keeping and taking over. A lease avoids double work; it does not arbitrate: the record's create-only put
does, so a worker that was believed dead and wakes up harms nothing.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from xmas_job.errors import TryAgainError, XmasError
from xmas_job.logs import get_logger
from xmas_job.storage.documents import newest_number, read_document
from xmas_job.storage.owner import Owner, this_process
from xmas_job.storage.store import Store

logger = get_logger(__name__)

FIRST_POLL_SECONDS, LAST_POLL_SECONDS = 0.2, 2.0
"""A waiter looks less and less often: on an object store every look is paid for."""
POLL_GROWTH = 1.2


class Lease:
    """Held by this process while the `with` block runs; `number` counts the takers of this address."""

    def __init__(self, store: Store, prefix: str, number: int, ttl_seconds: float, work: Mapping[str, str]) -> None:
        self.number = number
        self._work = work
        self._progress: tuple[int, int] | None = None
        self._store = store
        self._key = lease_key(prefix, number)
        self._ttl_seconds = ttl_seconds
        self._interval_seconds = ttl_seconds / 5
        self._last_beat = time.monotonic()
        self._has_lapsed = False
        self._beat = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, name="lease-heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def create(self) -> bool:
        """Take the lease, if nobody has this number; False else."""
        return self._store.create(self._key, self._content(released=False))

    @property
    def is_sure(self) -> bool:
        """Whether nobody can have taken the lease for dead: no heartbeat was ever late by more than half the TTL."""
        return not self._has_lapsed and time.monotonic() - self._last_beat < self._ttl_seconds / 2

    def show_progress(self, done: int, total: int) -> None:
        """Let the next heartbeat tell how far the work is; writes nothing by itself."""
        self._progress = (done, total)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        try:
            self._store.put(self._key, self._content(released=True))
        except (OSError, XmasError) as release_error:
            # The lease then simply runs out; the error of the block matters more.
            logger.warning("lease not released", key=self._key, error=str(release_error))

    def _keep_beating(self) -> None:
        while not self._stop.wait(self._interval_seconds):
            self._beat += 1
            try:
                self._store.put(self._key, self._content(released=False))
                now = time.monotonic()
                self._has_lapsed |= now - self._last_beat >= self._ttl_seconds / 2
                self._last_beat = now
            except (OSError, XmasError) as error:
                # A full disk or a silent store stops the stage itself, with its remedy; a missed beat must not.
                logger.warning("heartbeat failed", key=self._key, error=str(error))

    def _content(self, *, released: bool) -> bytes:
        return _content(self._beat, self._work, self._interval_seconds, self._progress, released=released)


@dataclass(frozen=True)
class LeaseState:
    """A lease as anybody sees it."""

    number: int
    owner: Owner
    work: Mapping[str, str]
    """What it is for: run, stage, partition."""
    beat: int
    interval_seconds: float
    """Between two heartbeats."""
    progress: tuple[int, int] | None
    """(done, total) at the last heartbeat."""
    written: str
    """When the last heartbeat was written, by the owner's clock; to be shown, never to be compared."""
    released: bool

    @property
    def is_free(self) -> bool:
        """Whether it was given back, or its owner is known to be dead."""
        return self.released or self.owner.is_dead()


def newest_lease(store: Store, prefix: str) -> LeaseState | None:
    """The last lease that was taken under `prefix`."""
    number = _newest(store, prefix)
    return read_lease(store, prefix, number) if number else None


def read_lease(store: Store, prefix: str, number: int) -> LeaseState:
    """One lease. Raises FileNotFoundError; BadDataError, if it is damaged."""
    remedy = f"Delete that file once nobody is at work under {prefix}; what is finished there stays."
    return read_document(store, lease_key(prefix, number), lambda raw: _state(number, raw), remedy=remedy)


def _state(number: int, raw: Mapping[str, Any]) -> LeaseState:
    progress = raw["progress"]
    return LeaseState(
        number=number,
        owner=Owner(**raw["owner"]),
        work=raw["work"],
        beat=raw["beat"],
        interval_seconds=raw["interval_seconds"],
        progress=(progress[0], progress[1]) if progress else None,
        written=raw["written"],
        released=bool(raw["released"]),
    )


def lease_key(prefix: str, number: int) -> str:
    """Key of the `number`-th lease under `prefix`."""
    return f"{prefix}/lease/{number:06d}.json"


def try_acquire(store: Store, prefix: str, ttl_seconds: float, work: Mapping[str, str] | None = None) -> Lease | None:
    """The next lease, if nobody holds one whose owner may be alive; else None, at once."""
    newest = _newest(store, prefix)
    if newest and not read_lease(store, prefix, newest).is_free:
        return None
    return _create(store, prefix, newest + 1, ttl_seconds, work or {})


def acquire(
    store: Store,
    prefix: str,
    *,
    ttl_seconds: float,
    timeout_seconds: float,
    is_done: Callable[[], bool],
    work: Mapping[str, str] | None = None,
) -> Lease | None:
    """Wait for the lease while its holder's heartbeat moves; take over once it stands still for the TTL.

    Args:
        store: holds the leases.
        prefix: address of what is being built.
        ttl_seconds: how long a heartbeat may stand still, on this process's own monotonic clock.
        timeout_seconds: how long to wait for a holder that is alive.
        is_done: asked at every look; the wait ends with None once what was waited for is there.
        work: what the lease is for, for those who look on.

    Raises:
        TryAgainError: if the holder is still at work after `timeout_seconds`.
    """
    started = last_change = time.monotonic()
    last_seen: object = None
    poll_seconds = min(FIRST_POLL_SECONDS, ttl_seconds / 3)
    while not is_done():
        newest = _newest(store, prefix)
        holder = read_lease(store, prefix, newest) if newest else None
        now = time.monotonic()
        if (seen := (newest, holder and holder.beat)) != last_seen:
            last_seen, last_change = seen, now
        stands_still = now - last_change >= ttl_seconds
        if holder is None or holder.is_free or stands_still:
            if holder and stands_still:
                owner = holder.owner.to_json()
                logger.warning("taking over a lease that stands still", prefix=prefix, lease=newest, owner=owner)
            if lease := _create(store, prefix, newest + 1, ttl_seconds, work or {}):
                return lease
        elif now - started >= timeout_seconds:
            raise TryAgainError(
                f"{prefix} is still being built by {holder.owner} after {timeout_seconds:.0f} s.",
                "Run the same command again later.",
            )
        time.sleep(poll_seconds)
        poll_seconds = min(poll_seconds * POLL_GROWTH, LAST_POLL_SECONDS, ttl_seconds / 3)
    return None


def _create(store: Store, prefix: str, number: int, ttl_seconds: float, work: Mapping[str, str]) -> Lease | None:
    lease = Lease(store, prefix, number, ttl_seconds, work)
    return lease if lease.create() else None


def _newest(store: Store, prefix: str) -> int:
    return newest_number(store, f"{prefix}/lease")


def _content(
    beat: int, work: Mapping[str, str], interval_seconds: float, progress: tuple[int, int] | None, *, released: bool
) -> bytes:
    content = {
        "owner": this_process().to_json(),
        "work": dict(work),
        "beat": beat,
        "interval_seconds": interval_seconds,
        "progress": progress,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "released": released,
    }
    return json.dumps(content).encode()
