"""What starts the DAGs that nobody starts by hand, as Airflow parses it. Whether they then do it: tests/service."""

from __future__ import annotations

import json
from typing import Any

QUEUE = "https://sqs.example/1/landed"
CONF = {"recipe": "/recipes/my.yaml", "budget": "10%", "train_target": False}
LANDING = {"XMAS_LANDING_CONF": json.dumps(CONF), "XMAS_LANDING_RECONCILE_SECONDS": "60"}


def test_nothing_starts_by_itself_unless_it_is_asked_for(facts: dict[str, Any]) -> None:
    schedules = facts["schedules"]
    assert {name for name, found in schedules.items() if found["seconds"]} == set()
    assert {name for name, found in schedules.items() if found["assets"]} == {"xmas_example_consumer"}
    assert schedules["xmas_example_consumer"]["is_paused_at_first"]


def test_landing_runs_by_the_clock_and_by_the_queue(ask_airflow: Any) -> None:
    asked = ask_airflow("facts", **LANDING, XMAS_LANDING_QUEUE=QUEUE, XMAS_ALERT_URLS="json://secret@host")
    landing = asked["schedules"]["xmas_landing"]
    assert (landing["seconds"], landing["assets"], landing["max_active_runs"]) == (60, ["xmas_landed"], 1)
    (trigger,) = landing["triggers"]
    assert trigger["class"].endswith(".SqsSensorTrigger")
    assert (trigger["sqs_queue"], trigger["aws_conn_id"], trigger["delete_message_on_reception"]) == (QUEUE, None, True)
    assert {name: asked["landing_params"][name] for name in CONF} == CONF
    assert asked["schedules"]["xmas_watch"]["seconds"] == 300
    assert "secret" not in asked["serialized"]


def test_landing_without_a_queue_runs_by_the_clock(ask_airflow: Any) -> None:
    asked = ask_airflow("facts", **LANDING)
    landing = asked["schedules"]["xmas_landing"]
    assert (landing["seconds"], landing["assets"], landing["triggers"]) == (60, [], [])


def test_misspelt_conf_is_an_import_error_that_names_it(ask_airflow: Any) -> None:
    asked = ask_airflow("facts", XMAS_LANDING_CONF=json.dumps({"bugdet": "10%"}))
    (error,) = asked["import_errors"].values()
    assert "unknown params ['bugdet']. Known: recipe, budget" in error
