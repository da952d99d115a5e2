"""Alerts arrive at a real web server."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

pytest.importorskip("apprise", reason="alerts come with the extra `airflow`: make airflow")

from tests.alerts.receiver import Receiver
from xmas_job.alerts.failure import Failure, send
from xmas_job.errors import TryAgainError, UsageError

FAILURE = Failure("r1", "extract:demo@v1", "the disk is full. Free some space.", "airflow dags trigger xmas_selection")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_alert_says_run_stage_error_and_the_command(receiver: Receiver) -> None:
    send(FAILURE, receiver.url)
    (got,) = receiver.got
    assert got["title"] == "xmas_job: extract:demo@v1 failed in run r1"
    assert got["message"].splitlines() == [
        "the disk is full. Free some space.",
        "",
        "What was finished is kept. To go on:",
        "airflow dags trigger xmas_selection",
    ]


def test_every_url_is_told(receiver: Receiver) -> None:
    send(FAILURE, f"{receiver.url} {receiver.url}/other")
    assert len(receiver.got) == 2


def test_refusing_receiver_is_an_error_without_the_secret(receiver: Receiver) -> None:
    receiver.status = 500
    with pytest.raises(TryAgainError, match="not all of the 1 receivers") as caught:
        send(FAILURE, receiver.url)
    assert "secret" not in str(caught.value)


def test_unknown_url_is_refused_and_the_others_told(receiver: Receiver) -> None:
    with pytest.raises(UsageError, match="1 of 2 alert URLs") as caught:
        send(FAILURE, f"carrier-pigeon://secret@loft {receiver.url}")
    assert "secret" not in str(caught.value)
    assert len(receiver.got) == 1


def test_apprise_is_loaded_only_to_send() -> None:
    code = "import sys, xmas_job.alerts.failure; print('apprise' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
