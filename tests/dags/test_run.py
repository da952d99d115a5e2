"""The DAG run by Airflow's own `dag.test()`, on a small landed demo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.alerts.receiver import Receiver
from tests.end_to_end.line import RECIPE, World, land


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> World:
    return land(tmp_path_factory.mktemp("landed") / "world", RECIPE)


@pytest.fixture
def world(landed: World, tmp_path: Path) -> World:
    """Landed, and nothing built."""
    return landed.copy(tmp_path / "world")


def variables(world: World) -> dict[str, str]:
    return {name: value for name, value in world.environment().items() if name.startswith("XMAS_")}


def try_run(ask_airflow: Any, world: World, conf: dict[str, Any], **more: str) -> dict[str, Any]:
    conf = {"recipe": str(world.recipe), "budget": "20%", **conf}
    answer: dict[str, Any] = ask_airflow("try", json.dumps(conf), **{**variables(world), **more})
    return answer


def test_run_publishes_and_its_repetition_builds_nothing(ask_airflow: Any, world: World) -> None:
    first = try_run(ask_airflow, world, {})
    assert first["state"] == "success", first["output"][-3000:]
    assert len(first["tasks"]["extract.build"]) == 3  # 143 scored or text examples, 48 a partition
    assert first["tasks"]["train_target.build"] == ["skipped"]
    shown = json.loads(world.call("show", "--json").stdout)
    assert shown["run"] == first["run"].replace(":", "-")
    assert shown["status"] == "done"
    assert {stage["status"] for stage in shown["stages"]} == {"built"}
    published = world.published()

    second = try_run(ask_airflow, world, {})
    assert second["state"] == "success"
    built = {name for name, states in second["tasks"].items() if name.endswith(".build") and states != ["skipped"]}
    assert built == set()
    shown = json.loads(world.call("show", "--json").stdout)
    assert {stage["status"] for stage in shown["stages"]} == {"hit"}
    assert world.published() == published


def test_failure_is_told_with_the_command_to_go_on(ask_airflow: Any, world: World, receiver: Receiver) -> None:
    conf = {"budget": "100000", "method": "random"}
    failed = try_run(ask_airflow, world, conf, XMAS_ALERT_URLS=receiver.url)
    assert failed["state"] == "failed"
    assert [name for name, states in failed["tasks"].items() if "failed" in states] == ["pool.build"]
    (alert,) = receiver.got  # one for the stage that failed, none for those after it
    assert alert["title"].startswith("xmas_job: the budget of run manual__")
    assert "/dags/xmas_selection/runs/manual__" in alert["message"]
    assert "budget 100000 is above the pool" in alert["message"]
    assert "(exit code 2)" in alert["message"]
    assert "airflow dags trigger xmas_selection --conf '{" in alert["message"]
