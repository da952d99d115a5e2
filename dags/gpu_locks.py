"""Sharing out the GPUs of one machine between its workers: Docker itself gives every container the first ones.

Owns nothing that can go stale: a lock ends with the process that holds it, however that ends.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path

from xmas_job.errors import UsageError

POLL_SECONDS = 1.0


@contextmanager
def some_gpus(gpu_ids: Sequence[str], count: int, folder: Path) -> Iterator[list[str]]:
    """Hold `count` of the GPUs, waiting until as many are free.

    Args:
        gpu_ids: all that may be used, as Docker names them: numbers or UUIDs.
        count: how many.
        folder: of the locks; the same for all workers of the machine.

    Raises:
        UsageError: if there are never as many.
    """
    if count > len(gpu_ids):
        raise UsageError(
            f"the stage asks for {count} GPUs, and XMAS_DOCKER_GPU_IDS names {len(gpu_ids)}.",
            f"Name more, or set XMAS_MAX_GPUS={len(gpu_ids)}.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        with ExitStack() as locks:
            free = (gpu for gpu in gpu_ids if _lock(folder / f"gpu-{gpu}.lock", locks))
            held = list(islice(free, count))
            if len(held) == count:
                yield held
                return
        time.sleep(POLL_SECONDS)


def _lock(path: Path, locks: ExitStack) -> bool:
    file = locks.enter_context(path.open("w"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
