"""The DAG of comparisons as Airflow parses it; tests/service runs it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.dags.inside_airflow import COMPARISON_CONFS
from tests.dags.test_xmas_selection import HEAVY


def test_runs_are_runs_of_the_selection_dag_and_hold_no_worker(facts: dict[str, Any]) -> None:
    comparison = facts["comparison"]
    assert comparison["run"] == {"trigger_dag_id": "xmas_selection", "deferrable": True, "reset_dag_run": True}
    assert comparison["run_retries"] == 0  # its own tasks were tried again
    assert comparison["run_upstream"] == ["start"]


def test_report_follows_failed_runs_too_but_no_failed_start(facts: dict[str, Any]) -> None:
    tasks = facts["comparison"]["tasks"]
    assert set(tasks) == {"start", "report"}
    assert tasks["report"]["upstream"] == ["run", "start"]
    assert tasks["report"]["trigger_rule"] == "all_done_min_one_success"
    assert all(task["has_alert"] and task["retries"] == 2 for task in tasks.values())


def test_run_whose_tasks_cannot_tell_is_told_of(facts: dict[str, Any]) -> None:
    has_alert = {name: found["has_alert"] for name, found in facts["schedules"].items()}
    assert has_alert["xmas_selection"]
    assert has_alert["xmas_comparison"]


def test_parse_loads_nothing_heavy(facts: dict[str, Any]) -> None:
    parsed = facts["comparison"]["parsed"]
    assert HEAVY.isdisjoint(parsed["modules"])
    assert parsed["seconds"] < max(1.0, facts["parsed"]["seconds_of_airflow"])


def test_params_become_arguments_of_compare_start(facts: dict[str, Any]) -> None:
    default, everything, *_ = facts["comparison"]["confs"]
    assert default == ["--recipe", "demo", "--methods", "xmas", "--budgets", "5%,15%"]
    assert everything == [
        "--recipe",
        "mine.yaml",
        "--methods",
        "xmas,my_module.more:Mine,full",
        "--budgets",
        "10%,300",
        "--seeds",
        "2",
    ]


@pytest.mark.parametrize(
    ("conf", "says"),
    [(2, "'magic' is not valid"), (3, "[]"), (4, "'0%' does not match"), (5, "0 is less than"), (6, "['method']")],
    ids=lambda value: str(COMPARISON_CONFS[value]) if isinstance(value, int) else "",
)
def test_wrong_param_is_refused_by_name(facts: dict[str, Any], conf: int, says: str) -> None:
    refusal = facts["comparison"]["confs"][conf]
    assert isinstance(refusal, str), f"{COMPARISON_CONFS[conf]} was taken"
    assert says in refusal
