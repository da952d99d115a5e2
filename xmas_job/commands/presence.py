"""A run at work and a clearing of the store never miss each other.

Both first write down that they are there, then look for the other: a run waits until the clearing is over, a clearing
keeps whatever a run that is there may use. So whichever writes second sees the first.
"""

from __future__ import annotations

import time

from xmas_job.errors import TryAgainError
from xmas_job.fingerprint import canonical_json
from xmas_job.logs import get_logger
from xmas_job.storage.journal import presence_key, utc_now
from xmas_job.storage.lease import newest_lease
from xmas_job.storage.owner import this_process
from xmas_job.storage.store import Store

logger = get_logger(__name__)

CLEARING = "clearing"
"""Prefix of the lease of whoever clears the store."""
CLEARING_TTL_SECONDS = 60.0
WAIT_SECONDS = 3600.0
POLL_SECONDS = 0.5


def enter(store: Store, run_id: str) -> None:
    """Called by every process of a run before it looks for artifacts: it is there, and nothing is being cleared away.

    Raises:
        TryAgainError: if the store is still being cleared after an hour.
    """
    store.put(presence_key(run_id), canonical_json({"owner": this_process().to_json(), "when": utc_now()}))
    wait_for_clearing(store)


def wait_for_clearing(store: Store) -> None:
    """Return once nothing is being cleared away, or whoever does it stands still.

    Raises:
        TryAgainError: if the store is still being cleared after an hour.
    """
    started = last_change = time.monotonic()
    last_seen: object = None
    while (lease := newest_lease(store, CLEARING)) and not lease.is_free:
        now = time.monotonic()
        if (lease.number, lease.beat) != last_seen:
            last_seen, last_change = (lease.number, lease.beat), now
        if now - last_change >= CLEARING_TTL_SECONDS:
            logger.warning("a clearing of the store stands still; going on without it", lease=lease.number)
            return
        if now - started >= WAIT_SECONDS:
            raise TryAgainError(f"{store.uri} is still being cleared by {lease.owner}.", "Run the same command later.")
        time.sleep(POLL_SECONDS)
