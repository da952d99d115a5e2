"""A comparison on this machine: its runs one after the other, then their joint report.

Owns their order. What they share, the first builds and the others find. A run that fails is shown, and stops no other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from xmas_job.commands.comparison import Comparison, start_comparison
from xmas_job.commands.comparison_report import report_comparison
from xmas_job.commands.comparison_request import Request
from xmas_job.commands.run import OnEvent, run_line
from xmas_job.environment import Environment
from xmas_job.errors import TryAgainError, XmasError
from xmas_job.fingerprint import Json
from xmas_job.logs import get_logger
from xmas_job.storage.roots import open_store

logger = get_logger(__name__)


def compare(
    environment: Environment, request: Request, comparison_id: str | None, on_event: OnEvent | None
) -> dict[str, Json]:
    """Run or find every run of the comparison; what `compare` prints.

    Args:
        environment: where and how.
        request: what.
        comparison_id: of a comparison to start or to continue; None for the one that follows from the request.
        on_event: shows the stages' events, under their run's method and budget; None passes their log lines through.

    Raises:
        UsageError: if the request is wrong, before anything is built.
        TryAgainError: of a run, at once: nothing is known of its method, and the same command goes on.
        XmasError: of the first run that fails, if all do.
    """
    comparison = start_comparison(open_store(environment.store_root), request, comparison_id)
    logger.info("comparison started", comparison=comparison.comparison_id, runs=len(comparison.running))
    for entry in comparison.entries:
        if entry.config is None:
            logger.warning("cannot run", method=entry.method, budget=entry.budget, error=entry.error)
    failed = _run_all(environment, comparison, on_event)
    result = report_comparison(environment, comparison.comparison_id)
    if len(failed) == len(comparison.running):
        raise failed[0]
    return result


def _run_all(environment: Environment, comparison: Comparison, on_event: OnEvent | None) -> list[XmasError]:
    """Every run to its end; what failed."""
    failed: list[XmasError] = []
    for entry in comparison.running:
        assert entry.config is not None
        show = on_event and partial(_shown, on_event, f"{entry.method} {entry.budget}")
        try:
            run_line(environment, entry.config, comparison.run_id(entry), show)
        except TryAgainError:
            raise
        except XmasError as error:
            logger.error("run failed", method=entry.method, budget=entry.budget, error=error.message)  # noqa: TRY400
            failed.append(error)
    return failed


def _shown(on_event: Callable[[str, dict[str, Json]], None], run: str, stage: str, event: dict[str, Json]) -> None:
    on_event(f"{run}: {stage}", event)
