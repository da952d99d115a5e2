from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("httpx", reason="make run comes with the extra `airflow`: make airflow")

from infra import make_run


def task(name: str, state: str | None) -> dict[str, Any]:
    return {"task_id": name, "state": state}


@pytest.mark.parametrize(
    ("states", "has_ended"),
    [
        (["success", "success"], True),
        (["success", "skipped"], True),
        (["success", "running"], False),
        (["success", None], False),
        (["success", "up_for_retry"], False),
        (["success", "failed"], True),
        (["upstream_failed", "upstream_failed"], False),
    ],
)
def test_stage_is_shown_once_it_has_ended(states: list[str | None], has_ended: bool) -> None:
    tasks = [task("pool.reuse", states[0]), task("pool.build", states[1]), task("report.build", "running")]
    assert make_run._has_ended("pool", tasks) == has_ended


def test_second_make_run_of_a_checkout_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_run, "HOME", tmp_path)
    with make_run._alone(), pytest.raises(SystemExit, match="Another `make run`"), make_run._alone():
        pass
    with make_run._alone():
        pass


def test_help_names_what_can_be_asked() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "infra.make_run", "--help"], capture_output=True, text=True, check=True
    )
    assert all(name in done.stdout for name in ("--budget", "--conf", "--keep", "--stop"))
