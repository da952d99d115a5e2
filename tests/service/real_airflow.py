"""A real Airflow on a landed world, as a user meets it: started, asked, stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from infra.airflow_client import FINISHED, Client
from infra.airflow_server import Server, start
from tests.end_to_end.line import World

DEADLINE_SECONDS = 300.0


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + DEADLINE_SECONDS
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {DEADLINE_SECONDS:.0f} s in vain for {what}"
        time.sleep(0.05)
    return found


class Airflow:
    """A server on a landed world, as a user meets it."""

    def __init__(self, world: World, home: Path, **variables: str) -> None:
        self.world, self.home, self.variables = world, home, variables
        self.server: Server
        self.client: Client
        self.start()

    def start(self) -> None:
        environment = self.world.environment()
        own = {name: environment[name] for name in environment if name.startswith("XMAS_")}
        self.server = start(self.home, {**own, **self.variables})
        self.client = Client(self.server.url, self.server.password, "xmas_selection")
        wait_until(self.client.is_ready, f"Airflow, see {self.server.log}")

    def stop(self) -> None:
        self.server.stop()
        assert processes_of(self.home) == []

    def trigger(self, run_id: str, **conf: Any) -> str:
        self.client.trigger(run_id, {"recipe": str(self.world.recipe), "budget": "20%", "train_target": False, **conf})
        return run_id

    def finish(self, run_id: str) -> list[dict[str, Any]]:
        """Wait for the end of the run, which must be a good one; its tasks."""
        wait_until(lambda: self.client.state(run_id) in FINISHED, f"the end of {run_id}")
        tasks = self.client.tasks(run_id)
        failed = [[task["task_id"], *self.client.log(run_id, task)[-5:]] for task in tasks if task["state"] == "failed"]
        assert self.client.state(run_id) == "success", failed
        return tasks

    def statuses(self, run_id: str) -> dict[str, str]:
        process = self.world.start("show", run_id, "--json", variables=self.variables)
        shown = json.loads(process.communicate(timeout=DEADLINE_SECONDS)[0])
        return {stage["stage"]: stage["status"] for stage in shown["stages"]}

    def process(self, *words: str) -> psutil.Process | None:
        """The process of the server whose command has these words."""
        for process in self.server.processes():
            try:
                command = " ".join(process.cmdline())
            except psutil.NoSuchProcess:
                continue
            if all(word in command for word in words):
                return process
        return None

    def stage_at_work(self, stage: str) -> psutil.Process:
        """The process of the stage, once it has written something."""
        attempts = self.world.store / "artifacts" / stage
        wait_until(lambda: any(path.is_file() for path in attempts.glob("**/attempts/**/*")), f"{stage} to write")
        process = self.process("xmas_job.cli", "stage", stage)
        assert process is not None
        return process


def processes_of(home: Path) -> list[str]:
    """Everything on this machine that was started with this AIRFLOW_HOME."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("AIRFLOW_HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
