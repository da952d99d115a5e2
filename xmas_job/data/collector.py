"""The cyclic garbage collector, kept off the many objects of a chunk of rows, which hold no cycles.

It would walk them again and again as they are made, for more time than decoding them takes.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """No collection inside the block, and none ever of what it made: only reference counts free that.

    Freezing is what keeps the next collection from walking it all at once.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
