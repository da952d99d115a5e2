"""`make run`: the main job in a real Airflow on this machine, from landed data to the verdict, in one command.

Owns what the person sees on the way. Starts an Airflow, or uses the one that is up, and leaves no process behind.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from rich.console import Console

from infra.airflow_client import FINISHED, Client, RefusedError
from infra.airflow_server import CHECKOUT, Server, running, start
from xmas_job.commands.resolve import new_run_id
from xmas_job.commands.show import show_run
from xmas_job.environment import load_environment
from xmas_job.pipeline import STAGES
from xmas_job.storage.roots import open_store

DAG = "xmas_selection"
HOME = CHECKOUT / ".xmas" / "airflow"
START_SECONDS = 300.0
POLL_SECONDS = 1.0

console = Console(highlight=False, soft_wrap=True)


def main() -> int:
    """Exit code 0 if the run succeeded."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as after Ctrl-C
    os.chdir(CHECKOUT)  # the store and the scratch folder lie here, unless XMAS_* says otherwise
    if arguments.stop:
        return _stop()
    started = time.monotonic()
    conf = {"budget": arguments.budget, **json.loads(arguments.conf)}
    if conf.get("recipe", "demo") == "demo":
        subprocess.run([sys.executable, "-m", "xmas_job.cli", "demo", "land"], check=True)
    try:
        with _alone(), _airflow(keep=arguments.keep) as client:
            succeeded = _run(client, conf)
    except RefusedError as refusal:
        console.print(f"error: Airflow refused the request: {refusal}", markup=False)
        return 2
    except KeyboardInterrupt:
        console.print("Interrupted. `make run` again: what was finished is kept.")
        return 128 + signal.SIGINT
    console.print(f"{'time':>12}  {time.monotonic() - started:.0f} s in all")
    return 0 if succeeded else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make run", description=__doc__)
    parser.add_argument("--budget", default="15%", help="15%%, 0.15 or 300")
    parser.add_argument("--conf", default="{}", help="other params of the DAG, as JSON")
    parser.add_argument("--keep", action="store_true", help="leave Airflow up")
    parser.add_argument("--stop", action="store_true", help="only stop an Airflow that was left up")
    return parser.parse_args()


def _stop() -> int:
    server = running(HOME)
    if server:
        server.stop()
    console.print("Airflow is stopped." if server else "No Airflow of this checkout is up.")
    return 0


@contextmanager
def _alone() -> Iterator[None]:
    """One `make run` a checkout at a time: the second would lose its Airflow when the first ends."""
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit("Another `make run` of this checkout is at work. Wait for it, or end it.") from None
        yield


@contextmanager
def _airflow(*, keep: bool) -> Iterator[Client]:
    """An Airflow that is ready. At the end it is stopped, unless it is well and to be kept, or was up before."""
    found = running(HOME)
    environment = load_environment()
    places = {"XMAS_STORE_ROOT": environment.store_root, "XMAS_SCRATCH": str(environment.scratch)}
    server = found or start(HOME, places)
    client = Client(server.url, server.password, DAG)
    try:
        _wait(server, client)
        yield client
    finally:
        if (keep or found) and client.is_healthy():
            console.print(
                f"Airflow stays up: {server.url}  user admin  password {server.password}  (end it: make stop)"
            )
        else:
            server.stop()


def _wait(server: Server, client: Client) -> None:
    end = time.monotonic() + START_SECONDS
    with console.status("starting Airflow, about a minute"):
        while not client.is_ready():
            if not server.is_running() or time.monotonic() > end:
                tail = "".join(server.log.read_text(errors="replace").splitlines(keepends=True)[-20:])
                raise SystemExit(f"Airflow did not get ready. The end of {server.log}:\n{tail}")
            time.sleep(POLL_SECONDS)
    console.print(f"Airflow is up: {server.url}, log {server.log}")


def _run(client: Client, conf: dict[str, Any]) -> bool:
    """Trigger the DAG, show the run a stage at a time, and what came out. Whether it succeeded."""
    run_id = new_run_id()
    client.trigger(run_id, conf)
    console.print(f"DAG run: {client.url}/dags/{DAG}/runs/{run_id}")
    try:
        state, tasks = _follow(client, run_id)
    except KeyboardInterrupt:
        client.cancel(run_id)  # else the next Airflow of this checkout would take it up again
        raise
    if state == "success":
        _print_result(run_id)
    else:
        _print_failures(client, run_id, tasks)
    return state == "success"


def _follow(client: Client, run_id: str) -> tuple[str, list[dict[str, Any]]]:
    """Show every stage as it ends; the run's last state and its tasks."""
    shown: set[str] = set()
    with console.status("") as status:
        while True:
            state = client.state(run_id)  # before the tasks, so that none ends unseen
            tasks = client.tasks(run_id)
            for stage in [spec.name for spec in STAGES if _has_ended(spec.name, tasks)]:
                if stage not in shown:
                    shown.add(stage)
                    console.print(_stage_line(run_id, stage, tasks))
            if state in FINISHED:
                return state, tasks
            if not client.is_healthy():
                raise SystemExit("Airflow's scheduler died. `make run` again: what was finished is kept.")
            status.update(_at_work(tasks))
            time.sleep(POLL_SECONDS)


def _tasks_of(stage: str, tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [task for task in tasks if task["task_id"].startswith(f"{stage}.")]


def _has_ended(stage: str, tasks: list[dict[str, Any]]) -> bool:
    """Whether all its tasks ended, and not only because an earlier stage failed."""
    states = {task["state"] for task in _tasks_of(stage, tasks)}
    return states <= FINISHED and states != {"upstream_failed"}


def _at_work(tasks: list[dict[str, Any]]) -> str:
    names = [task["rendered_map_index"] or task["task_id"] for task in tasks if task["state"] == "running"]
    return ", ".join(names)


def _stage_line(run_id: str, stage: str, tasks: list[dict[str, Any]]) -> str:
    ours = _tasks_of(stage, tasks)
    if any(task["state"] == "failed" for task in ours):
        return f"{stage:>12}  failed"
    outcomes = [outcome for outcome in _show(run_id)["stages"] if outcome["stage"].partition(":")[0] == stage]
    counts = Counter(outcome["status"] for outcome in outcomes)
    words = ", ".join(f"{counts[status]} {status}" for status in ("built", "hit") if counts[status])
    times = [datetime.fromisoformat(task[end]) for task in ours for end in ("start_date", "end_date") if task[end]]
    seconds = (max(times) - min(times)).total_seconds()
    return f"{stage:>12}  {words or 'not needed'}" + (f"  {seconds:.0f} s" if counts["built"] else "")


def _print_result(run_id: str) -> None:
    result = _show(run_id)
    store = open_store(load_environment().store_root)
    headline = json.loads(store.read(f"runs/{run_id}/report/report.json"))["headline"]
    lines = {
        "selection": f"{result['selection_id']}, {result['num_examples']} examples",
        "manifest": result["manifest"],
        "report": result["report"],
        "verdict": f"{headline['verdict']}: {' '.join(headline['sentences'])}",
    }
    for name, text in lines.items():
        console.print(f"{name:>12}  {text}")


def _print_failures(client: Client, run_id: str, tasks: list[dict[str, Any]]) -> None:
    for task in tasks:
        if task["state"] == "failed":
            console.print(f"[red]failed[/] {task['rendered_map_index'] or task['task_id']}")
            for event in client.log(run_id, task):
                if "retry" in event:  # the line of the failure callback
                    console.print(f"  {event['error']}\n  to go on: {event['retry']}", markup=False)


def _show(run_id: str) -> dict[str, Any]:
    return dict(show_run(load_environment(), run_id))


if __name__ == "__main__":
    sys.exit(main())
