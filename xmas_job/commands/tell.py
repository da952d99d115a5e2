"""Telling people of a run, each thing once: what was told is remembered in the store.

Owns that an alert never fails, hides or holds up what it tells of.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict

from xmas_job.alerts.alert import FAILURES, Alert
from xmas_job.alerts.receivers import send
from xmas_job.environment import Environment
from xmas_job.errors import XmasError
from xmas_job.fingerprint import canonical_json
from xmas_job.logs import get_logger
from xmas_job.storage.journal import alert_key, alerts_folder, utc_now
from xmas_job.storage.roots import open_store
from xmas_job.storage.store import Store

logger = get_logger(__name__)


def tell(environment: Environment, alert: Alert) -> bool:
    """Tell it to XMAS_ALERT_URLS, unless the same rule has told of this stage of this run; whether it was told now.

    What did not arrive is forgotten, so that the next occasion tells it. A store that does not answer may be the very
    news: then it is told, at the risk of telling it twice.
    """
    if not environment.alert_urls:
        return False
    is_told = False
    with out_of_the_way():
        if _claim(environment, alert):
            try:
                send(alert, environment.alert_urls)
                is_told = True
            finally:
                if not is_told:
                    _unclaim(environment, alert)
    return is_told


def has_told_why(environment: Environment, run: str) -> bool:
    """Whether it has been told why the run failed; False if the store does not answer."""
    told: list[str] = []
    with out_of_the_way():
        told += [entry.key for entry in _memory(environment).list(alerts_folder(run))]
    return any(key.rpartition("/")[2].partition(".")[0] in FAILURES for key in told)


def forget(environment: Environment, run: str) -> None:
    """Let everything of `run` be told again: for what repeats under one name, and is well again."""
    with out_of_the_way():
        store = _memory(environment)
        for entry in list(store.list(alerts_folder(run))):
            store.delete(entry.key)


@contextmanager
def out_of_the_way() -> Iterator[None]:
    """Make whatever goes wrong with an alert a line in the log, and go on."""
    try:
        yield
    except XmasError as error:
        logger.error("the alert did not arrive", error=str(error))  # noqa: TRY400 (expected: no trace)
    except Exception as error:  # noqa: BLE001 (the stage's own outcome matters more, whatever broke here)
        # Not its words: a library may put a URL into them.
        logger.error("the alert did not arrive", error=type(error).__name__)  # noqa: TRY400


def _claim(environment: Environment, alert: Alert) -> bool:
    """Whether this process is the one to tell it."""
    content = canonical_json({**asdict(alert), "when": utc_now()})
    try:
        return _memory(environment).create(_key(alert), content)
    except (XmasError, OSError) as error:
        logger.warning("told without knowing whether it was before", error=str(error))
        return True


def _unclaim(environment: Environment, alert: Alert) -> None:
    with suppress(XmasError, OSError):
        _memory(environment).delete(_key(alert))


def _memory(environment: Environment) -> Store:
    """Where it is remembered what was told. In haste: a scheduler gives a callback 50 seconds, and then ends it."""
    return open_store(environment.store_root, environment.in_haste)


def _key(alert: Alert) -> str:
    return alert_key(alert.run, alert.rule, alert.node)
