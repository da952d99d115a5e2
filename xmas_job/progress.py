"""Progress of long work: one event every few seconds, drawn as a bar where a person looks on.

Owns the rate and the form of progress. Knows nothing of what is counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from xmas_job.logs import get_logger

ProgressCallback = Callable[[int, int], None]
"""Called with (done, total); `total` is known from the start."""

logger = get_logger(__name__)


class ProgressEvents:
    """Logs a `progress` event with done, total, rate (1/s) and eta (s) at most every `interval_seconds`."""

    def __init__(self, interval_seconds: float) -> None:
        self._interval_seconds = interval_seconds
        self._started = self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Report that `done` of `total` units are finished."""
        now = time.monotonic()
        if now - self._last < self._interval_seconds and done < total:
            return
        self._last = now
        rate = done / max(now - self._started, 1e-9)
        eta = (total - done) / rate if rate > 0 else None
        logger.info(
            "progress",
            done=done,
            total=total,
            rate=round(rate, 1),
            eta=None if eta is None else round(eta, 1),
        )


class StageBoard:
    """Live on a terminal: a bar for every running stage, and a line for every one that ends.

    Fed with the log events of the stages' processes, so that several can run at once.
    """

    def __init__(self) -> None:
        self._bars = Bars(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def show(self, stage: str, event: Mapping[str, Any]) -> None:
        """Take in one event of a stage."""
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=None)
        name, level = event.get("event"), event.get("level")
        if name == "progress":
            self._bars.update(self._tasks[stage], completed=event["done"], total=event["total"])
        elif name == "stage done":
            self._bars.update(self._tasks[stage], visible=False)
            self._bars.console.print(f"[green]{event['status']:>6}[/] {escape(stage)}  {event['seconds']} s")
        elif level in {"warning", "error", "critical"} and name != "stage failed":  # the command's last line says that
            details = {key: value for key, value in event.items() if key not in {"event", "level", "timestamp", "run"}}
            self._bars.console.print(f"[yellow]{level:>6}[/] {escape(stage)}  {escape(f'{name} {details}')}")
