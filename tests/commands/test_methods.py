from __future__ import annotations

from typing import Any

from xmas_job.catalog.methods import METHODS
from xmas_job.commands.methods import list_methods


def listed() -> dict[str, dict[str, Any]]:
    methods: Any = list_methods()["methods"]
    return {method["name"]: method for method in methods}


def test_every_method_is_listed_with_what_it_costs_and_keeps() -> None:
    assert listed().keys() == METHODS.keys()
    assert listed()["highest_learnability"] == {
        "name": "highest_learnability",
        "paper": "arXiv 2310.13008",
        "signals": [{"signal": "loss", "checkpoints": "first and last"}],
        "clusters": None,
        "nested": True,
        "cost": "proxy and one pass",
        "keeps": "largest fall of the loss",
        "experimental": False,
        "models": ["proxy"],
    }


def test_clusters_count_among_the_signals() -> None:
    assert listed()["s2l"]["signals"] == [{"signal": "loss", "checkpoints": "all"}]
    assert listed()["xmas"]["signals"] == [{"signal": "alignment", "checkpoints": "all"}]


def test_candidates_of_our_own_are_marked() -> None:
    assert {name for name, method in listed().items() if method["experimental"]} == {"density", "hierarchical"}


def test_models_that_a_recipe_has_to_name_are_listed() -> None:
    assert {name for name, method in listed().items() if not method["models"]} == {"random", "full"}
    assert listed()["clip_score"]["models"] == ["dual encoder"]
    assert listed()["ofa_dpp"]["models"] == ["dual encoder", "selector"]
