"""The way of an alert to webhooks, mail and chat, through Apprise.

Owns that no secret of a URL gets into a message or a log.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from xmas_job.alerts.alert import WARNINGS, Alert
from xmas_job.errors import TryAgainError, UsageError

_STATUS = re.compile(r"error=(\d{3})\b")
"""How Apprise's log tells the HTTP status of a refusal."""
SECONDS = 10.0
"""For one receiver to take an alert. A scheduler gives a callback 50 seconds, and then ends it."""


def send(alert: Alert, urls: str) -> None:
    """Tell it to all of `urls`.

    Args:
        alert: what to tell.
        urls: Apprise URLs, with spaces between. They hold secrets: what is said of a receiver is its place and scheme.

    Raises:
        UsageError: if Apprise is not installed, or a URL is none that it knows; the others have been told.
        TryAgainError: if a receiver did not take it.
    """
    receivers = _receivers(urls)
    refused = [refusal for place in receivers if (refusal := _refusal(place, urls, receivers[place], alert))]
    _refuse_unknown(receivers)
    if refused:
        raise TryAgainError(
            f"{len(refused)} of {len(receivers)} receivers did not take the alert: {', '.join(refused)}.",
            "Look at those of XMAS_ALERT_URLS.",
        )


def check_urls(urls: str) -> int:
    """How many receivers the URLs name; tells them nothing.

    Raises:
        UsageError: as `send`.
    """
    receivers = _receivers(urls)
    _refuse_unknown(receivers)
    return len(receivers)


def _receivers(urls: str) -> dict[int, Any]:
    """Place of a URL, from 1 -> Apprise with it alone; None for a URL that it does not know."""
    try:
        import apprise  # noqa: PLC0415 (an extra)
    except ImportError:
        raise UsageError(
            "alerts need the package apprise, which is not installed.", "pip install 'xmas-job[airflow]'"
        ) from None
    found: dict[int, Any] = {}
    with _unheard():
        for place, url in enumerate(urls.split(), start=1):
            receiver = apprise.Apprise()
            found[place] = receiver if receiver.add(url) else None
    return found


def _refusal(place: int, urls: str, receiver: Any, alert: Alert) -> str:
    """Tell one receiver; what to say of it if it did not take the alert, else ""."""
    if receiver is None:
        return ""
    # Not Apprise's default, "info": PagerDuty and others then wake nobody.
    severity = "warning" if alert.rule in WARNINGS else "failure"
    with _unheard() as said:
        is_told = receiver.notify(
            title=alert.title, body=alert.body, body_format="text", notify_type=severity, timeout=SECONDS
        )
    if is_told:
        return ""
    scheme = urls.split()[place - 1].partition("://")[0]
    statuses = [found[1] for line in said if (found := _STATUS.search(line))]
    return f"number {place} ({scheme}, {f'HTTP {statuses[-1]}' if statuses else 'no answer'})"


@contextmanager
def _unheard() -> Iterator[list[str]]:
    """Keep Apprise's own log lines out of ours: they name hosts, addresses and parts of URLs."""
    said: list[str] = []

    class _Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logger, listener = logging.getLogger("apprise"), _Listener()
    before = logger.propagate
    logger.addHandler(listener)
    logger.propagate = False
    try:
        yield said
    finally:
        logger.removeHandler(listener)
        logger.propagate = before


def _refuse_unknown(receivers: Mapping[int, Any]) -> None:
    unknown = [str(place) for place, receiver in receivers.items() if receiver is None]
    if unknown:
        raise UsageError(
            f"{len(unknown)} of {len(receivers)} alert URLs are none that Apprise knows: number {', '.join(unknown)}.",
            "Correct XMAS_ALERT_URLS; https://appriseit.com has the forms.",
        )
