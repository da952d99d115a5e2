"""Alerts arrive at a real web server."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("apprise", reason="alerts come with the extra `airflow`: make airflow")

from tests.alerts.receiver import Receiver
from xmas_job.alerts.alert import Alert
from xmas_job.alerts.receivers import send
from xmas_job.errors import TryAgainError, UsageError

ALERT = Alert(
    "task_failed",
    "r1",
    "extract:demo@v1 partition 2",
    "the disk is full. Free some space.",
    "airflow dags trigger xmas_selection",
    "https://airflow.example/dags/xmas_selection",
)


def test_alert_says_run_stage_error_and_the_command(receiver: Receiver) -> None:
    send(ALERT, receiver.url)
    (got,) = receiver.got
    assert got["title"] == "xmas_job: extract:demo@v1 partition 2 failed in run r1"
    assert got["message"].splitlines() == [
        "the disk is full. Free some space.",
        "",
        "Rule: task_failed",
        "Run: r1",
        "Stage: extract:demo@v1 partition 2",
        "Look: https://airflow.example/dags/xmas_selection",
        "",
        "What was finished is kept. To go on:",
        "airflow dags trigger xmas_selection",
    ]


def test_every_url_is_told(receiver: Receiver) -> None:
    send(ALERT, f"{receiver.url} {receiver.url}/other")
    assert len(receiver.got) == 2


def test_refusing_receiver_is_an_error_without_the_secret(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    receiver.status = 500
    with pytest.raises(TryAgainError, match=r"1 of 1 receivers.*number 1 \(json, HTTP 500\)") as caught:
        send(ALERT, receiver.url)
    assert "secret" not in str(caught.value) + caplog.text


def test_unknown_url_is_refused_and_the_others_told(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    with pytest.raises(UsageError, match="1 of 2 alert URLs are none that Apprise knows: number 1") as caught:
        send(ALERT, f"carrier-pigeon://secret@loft {receiver.url}")
    assert "secret" not in str(caught.value) + caplog.text
    assert len(receiver.got) == 1


def test_apprise_is_loaded_only_to_send() -> None:
    code = "import sys, xmas_job.alerts.receivers; print('apprise' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
