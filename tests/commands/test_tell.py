"""Each thing is told once, whoever tells it; and telling never gets in the way."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("apprise", reason="alerts come with the extra `airflow`: make airflow")

from tests.alerts.receiver import Receiver
from tests.s3_servers import silent_server
from tests.small_world import World
from xmas_job.alerts.alert import Alert
from xmas_job.commands.tell import forget, has_told_why, tell
from xmas_job.environment import HASTE, Environment

ALERT = Alert("task_failed", "r1", "extract:demo@v1 partition 2", "no space.", "xmas-job run")


@pytest.fixture
def environment(world: World, receiver: Receiver) -> Environment:
    return world.environment.model_copy(update={"alert_urls": receiver.url})


def test_stage_of_a_run_is_told_of_once_by_a_rule(environment: Environment, receiver: Receiver) -> None:
    assert tell(environment, ALERT)
    assert not tell(environment, ALERT)
    assert not tell(environment, replace(ALERT, stage="extract:demo@v1 partition 3", error="no space, too."))
    assert len(receiver.got) == 1
    for other in (
        replace(ALERT, rule="stale_heartbeat"),
        replace(ALERT, run="r2"),
        replace(ALERT, stage="extract:demo@v2 partition 2"),
        replace(ALERT, stage="pool"),
    ):
        assert tell(environment, other)
    assert len(receiver.got) == 5


def test_what_did_not_arrive_is_told_at_the_next_occasion(
    environment: Environment, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    receiver.status = 503
    assert not tell(environment, ALERT)
    assert not has_told_why(environment, "r1")
    said = capsys.readouterr().out
    assert "number 1 (json, HTTP 503)" in said
    assert "secret" not in said
    receiver.status = 200
    assert tell(environment, ALERT)
    assert has_told_why(environment, "r1")


def test_only_a_failure_says_why_a_run_failed(environment: Environment) -> None:
    tell(environment, replace(ALERT, rule="quarantine_spike"))
    assert not has_told_why(environment, "r1")
    tell(environment, replace(ALERT, rule="budget_unreachable", stage="pool"))
    assert has_told_why(environment, "r1")


def test_of_many_at_once_one_tells(environment: Environment, receiver: Receiver) -> None:
    threads = [threading.Thread(target=tell, args=(environment, ALERT)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(receiver.got) == 1


def test_what_is_well_again_is_told_when_it_fails_again(environment: Environment, receiver: Receiver) -> None:
    tell(environment, ALERT)
    forget(environment, "r1")
    assert not has_told_why(environment, "r1")
    assert tell(environment, ALERT)
    assert len(receiver.got) == 2


def test_store_that_does_not_answer_is_told_of(environment: Environment, receiver: Receiver, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    lost = environment.model_copy(update={"store_root": str(tmp_path / "file" / "store")})
    assert not has_told_why(lost, "r1")
    assert tell(lost, ALERT)
    assert len(receiver.got) == 1


def test_bucket_that_is_silent_does_not_keep_an_alert(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two calls of two tries each, however patient the stages are."""
    monkeypatch.setitem(HASTE, "s3_timeout_seconds", 0.2)
    with silent_server() as silent:
        for name, value in silent.variables.items():
            monkeypatch.setenv(name, value)
        lost = Environment(store_root="s3://bucket/store", alert_urls=receiver.url)
        assert not has_told_why(lost, "r1")
        assert tell(lost, ALERT)
        assert silent.num_calls() == 4
    assert len(receiver.got) == 1


def test_wrong_url_only_leaves_a_line(environment: Environment, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = environment.model_copy(update={"alert_urls": "carrier-pigeon://secret@loft"})
    assert not tell(wrong, ALERT)
    said = capsys.readouterr().out
    assert "number 1" in said
    assert "secret" not in said


def test_urls_are_no_part_of_what_an_environment_shows(environment: Environment) -> None:
    assert "secret" not in repr(environment)
    assert "secret" in environment.alert_urls
