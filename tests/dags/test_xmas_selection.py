"""The DAG as Airflow parses it: valid, the same as the plan, light; its params and its outcomes."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.dags.inside_airflow import CONFS
from xmas_job.core.budget import parse_budget
from xmas_job.pipeline import STAGES, is_source, plan
from xmas_job.recipe_files import load_config

HEAVY = {"torch", "transformers", "faiss", "numpy", "pyarrow", "boto3", "matplotlib", "PIL", "apprise", "pandas"}
BUDGETS = ["15%", "0.15", "300", "1", ".5", ".5%", "0.5%", "015%", "00.5", "99.9%", "100%", "100.0%", "12.5%"]
NO_BUDGETS = [
    "0",
    "0%",
    "0.0",
    "101%",
    "100.5%",
    "1.5",
    "300.0",
    "abc",
    "15%%",
    "-3",
    "1e5",
    "1,000",
    "5.",
    "%",
    "15%x",
]


def ancestors(task: str, tasks: dict[str, Any]) -> set[str]:
    upstream = set(tasks[task]["upstream"])
    return upstream.union(*(ancestors(name, tasks) for name in upstream))


def test_folder_has_no_import_error(facts: dict[str, Any]) -> None:
    assert facts["import_errors"] == {}
    assert facts["dags"] == [
        "xmas_comparison",
        "xmas_example_consumer",
        "xmas_landing",
        "xmas_selection",
        "xmas_watch",
    ]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["select.method=random"],
        ["select.method=full", "comparison=null"],
        ["comparison=null"],
        ['datasets=["a@v1","b@v2"]', "comparison.with_full=true"],
    ],
    ids=["demo", "random", "full", "no comparison", "two datasets"],
)
def test_structure_holds_every_plan(facts: dict[str, Any], overrides: list[str]) -> None:
    """Every node has a mapped task that builds it, after the tasks of all its inputs."""
    tasks = facts["tasks"]
    for node in plan(load_config("demo", overrides)):
        build = f"{node.spec.name}.build"
        assert tasks[build]["is_mapped"], node.id
        needed = {item.partition(":")[0] for items in node.inputs.values() for item in items if not is_source(item)}
        last = {f"{stage}.seal" if f"{stage}.seal" in tasks else f"{stage}.build" for stage in needed}
        assert last <= ancestors(build, tasks), node.id


def test_structure_has_nothing_beside_the_line(facts: dict[str, Any]) -> None:
    expected = {"resolve", "publish.announce"}
    for spec in STAGES:
        expected |= {f"{spec.name}.reuse", f"{spec.name}.build"}
        expected |= {f"{spec.name}.seal"} if spec.partitioned_by else set()
    assert set(facts["tasks"]) == expected
    assert set(facts["tasks_after_a_round_trip"]) == expected


def test_skipped_builds_let_the_line_go_on(facts: dict[str, Any]) -> None:
    rules = {name: task["trigger_rule"] for name, task in facts["tasks"].items() if name.endswith(".reuse")}
    assert set(rules.values()) == {"none_failed_min_one_success"}


def test_limits_come_from_the_stage(facts: dict[str, Any]) -> None:
    for spec in STAGES:
        build = facts["tasks"][f"{spec.name}.build"]
        assert build["hours"] == spec.resources.hours
        assert build["pool_slots"] == max(spec.resources.gpus, 1)
    assert all(task["retries"] == 2 and task["has_alert"] for task in facts["tasks"].values())


def test_gpu_stages_take_the_pool_that_is_named(ask_airflow: Any) -> None:
    tasks = ask_airflow("facts", XMAS_GPU_POOL="gpus")["tasks"]
    in_pool = {name.partition(".")[0] for name, task in tasks.items() if task["pool"] == "gpus"}
    assert in_pool == {spec.name for spec in STAGES if spec.resources.gpus}


def test_unknown_launcher_is_an_import_error_that_names_it(ask_airflow: Any) -> None:
    with pytest.raises(AssertionError, match="XMAS_LAUNCHER='steamboat'"):
        ask_airflow("facts", XMAS_LAUNCHER="steamboat")


def test_parse_loads_nothing_heavy_and_takes_less_than_a_second(facts: dict[str, Any]) -> None:
    parsed = facts["parsed"]
    assert HEAVY.isdisjoint(parsed["modules"])
    assert parsed["seconds"] < max(1.0, parsed["seconds_of_airflow"]), "a busy machine is slow for both"


@pytest.mark.parametrize("budget", [*BUDGETS, *NO_BUDGETS])
def test_form_takes_the_budgets_that_the_command_line_takes(facts: dict[str, Any], budget: str) -> None:
    assert bool(re.search(facts["budget"], budget)) == (budget in BUDGETS)
    if budget in BUDGETS:
        parse_budget(budget)
    else:
        with pytest.raises(ValueError, match="budget"):
            parse_budget(budget)


def test_params_become_arguments_of_resolve(facts: dict[str, Any]) -> None:
    default, _, everything, *_ = facts["confs"]
    assert default == ["--recipe", "demo", "--budget", "15%"]
    assert everything[:4] == ["--recipe", "demo", "--budget", "300"]
    assert everything[4::2] == ["--set"] * 6
    config = load_config("demo", everything[5::2])
    assert config.select.method == "random"
    assert config.selector.uri == "s3://b/o"
    assert config.select.seed == 7
    assert config.datasets == ("a", "b@v2")
    assert config.comparison is None
    assert config.channel == "x"


REFUSALS = ["'0' does not match", "'magic' is not one of", "-1 is less than", "[]", "'maybe'", "'Not A Key'", "''"]


@pytest.mark.parametrize(
    ("conf", "says"),
    list(
        zip(
            [1, 3, 4, 5, 6, 7, 8, 9],
            [*REFUSALS, "unknown params ['bugdet']. Known: recipe, budget, method"],
            strict=True,
        )
    ),
    ids=lambda value: next(iter(CONFS[value])) if isinstance(value, int) else "",
)
def test_wrong_param_is_refused_by_name(facts: dict[str, Any], conf: int, says: str) -> None:
    refusal = facts["confs"][conf]
    assert isinstance(refusal, str), f"{CONFS[conf]} was taken"
    assert says in refusal
    assert next(iter(CONFS[conf])) in refusal


def test_exit_codes_fail_retry_or_skip(facts: dict[str, Any]) -> None:
    assert facts["outcomes"] == {
        "XmasError": "AirflowException",
        "UsageError": "AirflowFailException",
        "MissingInputError": "AirflowFailException",
        "BadDataError": "AirflowFailException",
        "QualityGateError": "AirflowFailException",
        "TryAgainError": "AirflowException",
        "NothingToDoError": "AirflowSkipException",
    }
    assert facts["message"] == "what. remedy. (exit code 64)"
