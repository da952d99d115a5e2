"""Alerts arrive at a real web server."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

pytest.importorskip("apprise", reason="alerts come with the extra `airflow`: make airflow")

from tests.alerts.receiver import Receiver
from xmas_job.alerts import receivers
from xmas_job.alerts.alert import HEADLINES, Alert
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


def test_failure_wakes_people_and_a_warning_does_not(receiver: Receiver) -> None:
    for rule in HEADLINES:
        send(replace(ALERT, rule=rule), receiver.url)
    kinds = {rule: got["type"] for rule, got in zip(HEADLINES, receiver.got, strict=True)}
    failed = ("task_failed", "run_failed", "gate_failed", "budget_unreachable")
    assert kinds == {rule: "failure" if rule in failed else "warning" for rule in HEADLINES}


def test_receiver_that_never_comes_to_an_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that keep coming are no silence, which a time-out of the connection would end."""
    monkeypatch.setattr(receivers, "SECONDS", 0.5)
    gone = threading.Event()

    def drip(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            while not gone.wait(0.05):
                connection.sendall(b"H")

    with socket.create_server(("127.0.0.1", 0)) as server:
        dripping = threading.Thread(target=drip, args=(server,))
        dripping.start()
        with pytest.raises(TryAgainError, match=r"number 1 \(json, no answer\)"):
            send(ALERT, f"json://secret@127.0.0.1:{server.getsockname()[1]}")
        assert dripping.is_alive()
        gone.set()
        dripping.join()


def test_apprise_is_loaded_only_to_send() -> None:
    code = "import sys, xmas_job.alerts.receivers; print('apprise' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
