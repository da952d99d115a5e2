from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from xmas_job.commands.comparison_request import Request, entries, shared_signals
from xmas_job.config import RunConfig
from xmas_job.errors import UsageError
from xmas_job.pipeline import plan
from xmas_job.recipe_files import load_config

BACKWARDS = "tests.their_methods:Backwards"


def asked(*methods: str, budgets: tuple[str, ...] = ("10%",), **more: Any) -> Request:
    return Request("demo", methods, budgets, **more)


def configs(request: Request) -> list[RunConfig]:
    return [entry.config for entry in entries(request) if entry.config]


def test_one_run_a_method_and_budget_with_the_seeds_asked_for() -> None:
    found = entries(asked("xmas", BACKWARDS, budgets=("10%", "300"), num_seeds=2))
    assert [(entry.method, entry.budget) for entry in found] == [
        ("xmas", "10%"),
        ("xmas", "300"),
        (BACKWARDS, "10%"),
        (BACKWARDS, "300"),
    ]
    assert [entry.name for entry in found[1:3]] == ["xmas.300", "tests.their_methods-Backwards.10pct"]
    for entry in found:
        assert entry.config is not None
        assert (entry.config.select.method, entry.config.publish.budget) == (entry.method, entry.budget)
        assert entry.config.channel == "comparison"
        assert entry.config.comparison is not None
        assert (entry.config.comparison.num_seeds, entry.config.comparison.with_full) == (2, False)


def test_random_and_full_are_arms_of_every_run() -> None:
    (config,) = configs(asked("random", "xmas", "full"))
    assert config.select.method == "xmas"
    assert config.comparison is not None
    assert config.comparison.with_full
    arms = {node.key for node in plan(config) if node.spec.name == "publish"}
    assert arms == {"subset", "random.0", "random.1", "random.2", "full"}


@pytest.mark.parametrize("methods", [("random",), ("full",), ("full", "random")])
def test_references_alone_are_carried_by_one_more_random_draw(methods: tuple[str, ...]) -> None:
    (config,) = configs(asked(*methods))
    assert config.select.method == "random"


def test_random_is_a_method_like_any_other_where_no_target_is_trained() -> None:
    found = configs(asked("random", BACKWARDS, settings=("comparison=null",)))
    assert [config.select.method for config in found] == ["random", BACKWARDS]


def test_arms_of_equal_budget_are_the_same_nodes_in_every_run() -> None:
    one, other = (plan(config) for config in configs(asked("xmas", BACKWARDS)))
    random = [
        {node.id: (node.section, node.inputs) for node in nodes if "random" in node.key} for nodes in (one, other)
    ]
    assert random[0] == random[1]
    assert len(random[0]) == 12  # three draws: select, publish, train_target, evaluate


def test_signals_are_those_of_the_recipe_and_of_all_methods() -> None:
    recipe = load_config("demo", ['extract.signals=["loss"]', "select.method=random"])
    assert shared_signals(["xmas", "el2n", "ofa", "random"], recipe) == ("alignment", "el2n@last", "loss")
    assert shared_signals(["random"], recipe) == ("loss",)


def test_every_run_extracts_the_signals_of_all() -> None:
    nodes = [node for config in configs(asked("xmas", "el2n", BACKWARDS)) for node in plan(config)]
    extract, other = [node for node in nodes if node.spec.name == "extract"]
    assert extract.section.identity()["signals"] == ["alignment", "el2n@last"]
    assert (extract.section, extract.inputs) == (other.section, other.inputs)


def test_parameters_of_the_recipe_stay_with_its_own_method(tmp_path: Path) -> None:
    recipe = {"base": "demo", "select": {"method": "xmas", "params": {"within_cluster": "random"}}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    xmas, other = configs(Request(str(tmp_path / "recipe.yaml"), ("xmas", BACKWARDS), ("10%",)))
    assert (xmas.select.params, other.select.params) == ({"within_cluster": "random"}, {})


def test_refused_method_says_why_and_stops_no_other() -> None:
    refused, served = entries(asked("tests.their_methods:NeedsMore", BACKWARDS))
    assert refused.config is None
    assert "signal 'curvature', which does not exist" in refused.error
    assert refused.remedy.startswith("Signals are: ")
    assert served.config is not None


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (asked("xmas", settings=("clster.num_clusters=5",)), "unknown key 'clster'"),
        (Request("dmo", ("xmas",), ("10%",)), "there is no recipe 'dmo'"),
        (asked("xmas", num_seeds=2, settings=("comparison=null",)), "'comparison' is a value, not a section"),
    ],
)
def test_what_is_wrong_whatever_the_method_is_refused_once(request_: Request, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        entries(request_)
    assert caught.value.message.count(says) == 1
