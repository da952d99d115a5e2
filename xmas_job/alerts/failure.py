"""A failure in words, and its way to webhooks, mail and chat through Apprise.

Owns the words. Knows neither the scheduler that failed nor the store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xmas_job.errors import TryAgainError, UsageError


@dataclass(frozen=True)
class Failure:
    """What a person needs to act: which run and stage, why, and what to type next."""

    run: str
    stage: str
    error: str
    """The last error, with its remedy."""
    retry: str
    """The command that goes on from what was finished."""

    @property
    def title(self) -> str:
        """One line for a subject or a headline."""
        return f"xmas_job: {self.stage} failed in run {self.run}"

    @property
    def body(self) -> str:
        """The error, and the command below it."""
        return f"{self.error}\n\nWhat was finished is kept. To go on:\n{self.retry}"


def send(failure: Failure, urls: str) -> None:
    """Tell it to all of `urls`.

    Args:
        failure: what to tell.
        urls: Apprise URLs, with spaces between. They hold secrets, so no message repeats them.

    Raises:
        UsageError: if Apprise is not installed, or a URL is none that it knows; the others have been told.
        TryAgainError: if a receiver did not take it.
    """
    receivers, num_unknown = _receivers(urls)
    is_told = not receivers or receivers.notify(body=failure.body, title=failure.title)
    _refuse(num_unknown, urls)
    if not is_told:
        raise TryAgainError(
            f"not all of the {len(receivers)} receivers took the alert.", "Apprise's log lines say which."
        )


def check_urls(urls: str) -> int:
    """How many receivers the URLs name; tells them nothing.

    Raises:
        UsageError: as `send`.
    """
    receivers, num_unknown = _receivers(urls)
    _refuse(num_unknown, urls)
    return len(receivers)


def _receivers(urls: str) -> tuple[Any, int]:
    """Apprise with all URLs that it knows, and the number of the others."""
    try:
        import apprise  # noqa: PLC0415 (an extra)
    except ImportError:
        raise UsageError(
            "alerts need the package apprise, which is not installed.", "pip install 'xmas-job[airflow]'"
        ) from None
    receivers = apprise.Apprise()
    unknown = [url for url in urls.split() if not receivers.add(url)]
    return receivers, len(unknown)


def _refuse(num_unknown: int, urls: str) -> None:
    if num_unknown:
        raise UsageError(
            f"{num_unknown} of {len(urls.split())} alert URLs are none that Apprise knows.",
            "Correct XMAS_ALERT_URLS; https://appriseit.com has the forms.",
        )
