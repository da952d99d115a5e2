"""Peak memory of this process while a block runs: private pages only, since pages of a mapped file can be dropped."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import psutil

INTERVAL_SECONDS = 0.01


class PeakMemory:
    """`extra_bytes`: the largest private memory seen, less what was there at the start."""

    def __enter__(self) -> Self:
        self._process = psutil.Process()
        self._start = self._peak = self._private()
        self._stop = threading.Event()
        self._watch = threading.Thread(target=self._follow, daemon=True)
        self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._watch.join()

    @property
    def extra_bytes(self) -> int:
        return self._peak - self._start

    def _private(self) -> int:
        memory = self._process.memory_info()
        return int(memory.rss - memory.shared)

    def _follow(self) -> None:
        while not self._stop.wait(INTERVAL_SECONDS):
            self._peak = max(self._peak, self._private())
