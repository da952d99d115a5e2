"""Airflow's REST API, as far as one run of one DAG needs it."""

from __future__ import annotations

from typing import Any

import httpx

FINISHED = {"success", "failed", "skipped", "upstream_failed", "removed"}
PAGE = 100


class RefusedError(Exception):
    """Airflow does not take the request: HTTP 400, with the words of the DAG's schema."""


class Client:
    """A user of one Airflow."""

    def __init__(self, url: str, password: str, dag: str) -> None:
        self.url = url
        self._dag = f"/api/v2/dags/{dag}"
        self._password = password
        self._http = httpx.Client(base_url=url, timeout=60, trust_env=False)

    def is_ready(self) -> bool:
        """Whether Airflow is healthy and the DAG is there."""
        if not self.is_healthy():
            return False
        if "Authorization" not in self._http.headers:
            self._log_in()
        return self._http.get(self._dag).status_code == httpx.codes.OK

    def is_healthy(self) -> bool:
        """Whether Airflow answers and says that its components are alive."""
        try:
            health = self._http.get("/api/v2/monitor/health").json()
        except (httpx.TransportError, ValueError):
            return False
        return all(health[part]["status"] == "healthy" for part in ("metadatabase", "scheduler", "dag_processor"))

    def trigger(self, run_id: str, conf: dict[str, Any]) -> None:
        """Start a run of this id.

        Raises:
            RefusedError: if `conf` does not fit the DAG's params.
        """
        request = {"dag_run_id": run_id, "logical_date": None, "conf": conf}
        response = self._http.post(f"{self._dag}/dagRuns", json=request)
        if response.status_code == httpx.codes.BAD_REQUEST:
            raise RefusedError(response.json()["detail"])
        response.raise_for_status()

    def cancel(self, run_id: str) -> None:
        """End the run as failed; its tasks at work are stopped."""
        self._http.patch(f"{self._dag}/dagRuns/{run_id}", json={"state": "failed"}).raise_for_status()

    def state(self, run_id: str) -> str:
        """State of the run: queued, running, success or failed."""
        state: str = self._get(f"/dagRuns/{run_id}")["state"]
        return state

    def tasks(self, run_id: str) -> list[dict[str, Any]]:
        """All task instances of the run."""
        found: list[dict[str, Any]] = []
        while True:
            page = self._get(f"/dagRuns/{run_id}/taskInstances", limit=PAGE, offset=len(found))
            found += page["task_instances"]
            if len(found) >= page["total_entries"] or not page["task_instances"]:
                return found

    def unpause(self) -> None:
        """Let the DAG run by its schedule."""
        self._http.patch(self._dag, json={"is_paused": False}).raise_for_status()

    def runs(self) -> list[dict[str, Any]]:
        """The first runs of the DAG, at most a page of them, in the order they were made."""
        runs: list[dict[str, Any]] = self._get("/dagRuns", limit=PAGE, order_by="id")["dag_runs"]
        return runs

    def result(self, run_id: str, task_id: str) -> Any:
        """What a task that is not mapped returned."""
        path = f"/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        return self._get(path, deserialize=True)["value"]

    def log(self, run_id: str, instance: dict[str, Any]) -> list[dict[str, Any]]:
        """Events of the last try of a task instance."""
        path = f"/dagRuns/{run_id}/taskInstances/{instance['task_id']}/logs/{instance['try_number']}"
        events: list[dict[str, Any]] = self._get(path, map_index=instance["map_index"])["content"]
        return events

    def _get(self, path: str, **query: Any) -> Any:
        return self._http.get(self._dag + path, params=query).raise_for_status().json()

    def _log_in(self) -> None:
        answer = self._http.post("/auth/token", json={"username": "admin", "password": self._password})
        self._http.headers["Authorization"] = f"Bearer {answer.raise_for_status().json()['access_token']}"
