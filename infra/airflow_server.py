"""One Airflow on this machine: its folder, ports and secrets, its start and its end.

Owns the processes. An embedded default for laptops and tests (`airflow standalone` on SQLite), not for production.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

CHECKOUT = Path(__file__).resolve().parent.parent
SECONDS_TO_END = 6.0
"""Between asking the processes to end and killing them."""


@dataclass(frozen=True)
class Server:
    """A running Airflow. All its processes are in the session that `pid` leads."""

    home: Path
    pid: int
    created: float
    """When the process of this pid was created: tells it from a later one of the same number."""
    port: int

    @property
    def url(self) -> str:
        """Address of UI and REST."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def password(self) -> str:
        """Of the user `admin`."""
        passwords: dict[str, str] = json.loads(_passwords(self.home).read_text())
        return passwords["admin"]

    @property
    def log(self) -> Path:
        """What all its components print."""
        return self.home / "standalone.log"

    def is_running(self) -> bool:
        """Whether its first process is there."""
        try:
            process = psutil.Process(self.pid)
            return process.create_time() == self.created and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def stop(self) -> None:
        """End all its processes, also those of tasks, which lead process groups of their own."""
        _signal(self.processes(), signal.SIGTERM)
        while processes := self.processes():
            _signal(processes, signal.SIGKILL)
        _state(self.home).unlink(missing_ok=True)

    def processes(self) -> list[psutil.Process]:
        """Everything alive in its session."""
        return [process for process in psutil.process_iter() if _session(process) == self.pid]


def running(home: Path) -> Server | None:
    """The Airflow of this home that is up, if there is one."""
    try:
        server = Server(home, **json.loads(_state(home).read_text()))
    except FileNotFoundError:
        return None
    return server if server.is_running() else None


def start(home: Path, variables: dict[str, str]) -> Server:
    """Start an Airflow with its files in `home`; it is not ready yet.

    Args:
        home: AIRFLOW_HOME; made if it is not there.
        variables: environment of its tasks, beside this process's own.
    """
    home.mkdir(parents=True, exist_ok=True)
    if not _passwords(home).exists():
        _write_private(_passwords(home), json.dumps({"admin": secrets.token_urlsafe(12)}))
    port, *log_ports = _free_ports(3)
    environment = {**os.environ, **_settings(home, port, log_ports), **variables}
    # Without byte code every process of Airflow would compile it again, 16 seconds each.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with (home / "standalone.log").open("a") as log:
        process = subprocess.Popen(  # noqa: S603 (our own interpreter's airflow)
            [Path(sys.executable).parent / "airflow", "standalone"],
            cwd=CHECKOUT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(home, process.pid, psutil.Process(process.pid).create_time(), port)
    state = {key: value for key, value in asdict(server).items() if key != "home"}
    _state(home).write_text(json.dumps(state))
    return server


def _settings(home: Path, port: int, log_ports: list[int]) -> dict[str, str]:
    workers = os.environ.get("XMAS_WORKERS") or str(os.cpu_count() or 1)
    return {
        # `airflow standalone` starts its components by name.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(CHECKOUT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__PARALLELISM": workers,
        # On one machine, silence means death much sooner than in a cluster: after a kill, work goes on within a minute.
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "20",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "30",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(_passwords(home)),
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__SECRET_KEY": secrets.token_urlsafe(32),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(32),
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(log_ports[0]),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(log_ports[1]),
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [bound.getsockname()[1] for bound in sockets]
    for bound in sockets:
        bound.close()
    return ports


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def _passwords(home: Path) -> Path:
    return home / "passwords.json"


def _state(home: Path) -> Path:
    return home / "server.json"


def _signal(processes: list[psutil.Process], sent: signal.Signals) -> None:
    """Send it to all, and give them time to end."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(sent)
    psutil.wait_procs(processes, timeout=SECONDS_TO_END)


def _session(process: psutil.Process) -> int | None:
    try:
        if process.status() != psutil.STATUS_ZOMBIE:
            return os.getsid(process.pid)
    except (ProcessLookupError, psutil.NoSuchProcess):
        pass
    return None
