"""A comparison in a real Airflow: runs of the selection DAG, waited for in the triggerer, and their joint report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.airflow_client import FINISHED, Client
from tests.end_to_end.line import COMPARISON, RECIPE, land
from tests.service.real_airflow import Airflow, wait_until

pytestmark = pytest.mark.service

BREAKS = "tests.their_methods:Breaks"


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    world = land(tmp_path_factory.mktemp("landed") / "world", {**RECIPE, "comparison": COMPARISON})
    root = str(Path(__file__).parents[2])
    started = Airflow(world, tmp_path_factory.mktemp("airflow") / "home", PYTHONPATH=root)
    yield started
    started.stop()


def test_comparison_ends_with_a_report_that_shows_what_failed(airflow: Airflow) -> None:
    client = Client(airflow.server.url, airflow.server.password, "xmas_comparison")
    wait_until(client.is_ready, f"the DAG, see {airflow.server.log}")
    conf = {"recipe": str(airflow.world.recipe), "methods": ["random", "full", BREAKS], "budgets": ["20%"]}
    client.trigger("compared", {**conf, "methods": ["random", "full"]})
    wait_until(lambda: client.state("compared") in FINISHED, "the end of the comparison")
    tasks = {task["task_id"]: task for task in client.tasks("compared")}
    assert {name: task["state"] for name, task in tasks.items()} == dict.fromkeys(("start", "run", "report"), "success")
    assert tasks["run"]["rendered_map_index"] == "compared.random.20pct"
    assert set(airflow.statuses("compared.random.20pct").values()) == {"built"}
    folder = airflow.world.store / "comparisons/compared/report"
    numbers = json.loads((folder / "report.json").read_bytes())
    assert [(row["method"], row["state"]) for row in numbers["results"]] == [("random", "done")]
    assert numbers["results"][0]["difference"]["num_seeds"] == 1
    assert [row["method"] for row in numbers["references"]] == ["random", "full"]
    assert (folder / "index.html").read_bytes().startswith(b"<!DOCTYPE html>")

    # Another comparison on the same store: a method that breaks is shown, and all else was there.
    client.trigger("broken", conf)
    wait_until(lambda: client.state("broken") in FINISHED, "the end of the other comparison")
    assert client.state("broken") == "failed"  # nothing but the broken method has a run of its own in it
    numbers = json.loads((airflow.world.store / "comparisons/broken/report/report.json").read_bytes())
    assert [(row["method"], row["state"]) for row in numbers["results"]] == [(BREAKS, "failed")]
    assert "out of luck" in numbers["results"][0]["error"]
    assert [row["method"] for row in numbers["references"]] == ["random", "full"]
