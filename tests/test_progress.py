from __future__ import annotations

import time

import pytest
from structlog.testing import capture_logs

from xmas_job.progress import ProgressEvents, StageBoard


def test_events_come_at_most_once_an_interval_and_at_the_end() -> None:
    with capture_logs() as events:
        progress = ProgressEvents(0.05)
        started, done = time.monotonic(), 0
        while time.monotonic() - started < 0.3:
            done += 1
            progress(done, 10**9)
        elapsed = time.monotonic() - started
        progress(10**9, 10**9)
    assert 1 < len(events) <= elapsed / 0.05 + 1
    assert [event["event"] for event in events] == ["progress"] * len(events)
    assert events[-1]["done"] == events[-1]["total"] == 10**9


def test_last_event_comes_however_short_the_work() -> None:
    with capture_logs() as events:
        progress = ProgressEvents(3600)
        for done in range(1, 6):
            progress(done, 5)
    assert [(event["done"], event["total"]) for event in events] == [(5, 5)]


def test_rate_and_eta_follow_from_what_is_done() -> None:
    with capture_logs() as events:
        started = time.monotonic()
        progress = ProgressEvents(0.0)
        while time.monotonic() - started < 0.2:
            time.sleep(0.01)
        progress(100, 300)
        elapsed = time.monotonic() - started
    (event,) = events
    assert 100 / elapsed - 1 <= event["rate"] <= 100 / 0.2
    assert event["eta"] == pytest.approx(200 / event["rate"], abs=0.06)


def test_nothing_done_has_no_eta() -> None:
    with capture_logs() as events:
        ProgressEvents(0.0)(0, 10)
    assert events[0]["eta"] is None


def test_board_shows_what_ends_and_what_goes_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    with StageBoard() as board:
        board.show("pool", {"event": "stage started", "level": "info"})
        board.show("pool", {"event": "progress", "level": "info", "done": 1, "total": 2})
        board.show("extract:demo@v1", {"event": "odd [bold]file[/]", "level": "warning", "timestamp": "t", "key": 7})
        board.show("pool", {"event": "stage done", "level": "info", "status": "built", "seconds": 1.25})
    shown = capsys.readouterr()
    assert shown.out == "", "stdout belongs to results"
    assert "built pool  1.25 s" in shown.err
    assert "warning extract:demo@v1" in shown.err
    assert "odd [bold]file[/] {'key': 7}" in " ".join(shown.err.split())
