"""Stopping, on processes that behave like Airflow's: groups of their own, and no wish to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from infra import airflow_server
from infra.airflow_server import Server, running
from tests.processes import wait_until

STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setpgid(0, 0)
open(sys.argv[1] + f"/{os.getpid()}", "w").close()
time.sleep(600)
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(airflow_server, "SECONDS_TO_END", 0.5)
    pids = tmp_path / "pids"
    pids.mkdir()
    process = subprocess.Popen([sys.executable, "-c", STUBBORN, str(pids)], start_new_session=True)
    wait_until(lambda: len(list(pids.iterdir())) == 2, "both processes")
    created = psutil.Process(process.pid).create_time()
    (tmp_path / "server.json").write_text(json.dumps({"pid": process.pid, "created": created, "port": 1}))
    found = running(tmp_path)
    assert found is not None
    return found


def test_stop_ends_what_ignores_it_and_what_leads_a_group_of_its_own(server: Server) -> None:
    processes = server.processes()
    assert len(processes) == 2
    server.stop()
    assert server.processes() == []
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)
    assert running(server.home) is None


def test_another_process_of_the_same_number_is_not_ours(server: Server) -> None:
    state = server.home / "server.json"
    state.write_text(json.dumps({"pid": server.pid, "created": server.created - 1, "port": 1}))
    assert running(server.home) is None
    server.stop()


def test_no_airflow_is_running_where_none_was_started(tmp_path: Path) -> None:
    assert running(tmp_path) is None
