"""What can be asked of a selection, as the params of a DAG, and as arguments of `xmas-job`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from airflow.sdk import Param
from dag_factory import BUDGET, known_params

from xmas_job.catalog.methods import METHODS

PARAMS = {
    "recipe": Param(
        "demo", type="string", minLength=1, description="A shipped recipe, or the path of a YAML file on the worker."
    ),
    "budget": Param(
        "15%", type="string", pattern=BUDGET, description="How much of the pool to select: 15%, 0.15 or 300 (examples)."
    ),
    "method": Param(
        None, type=["null", "string"], enum=[None, *METHODS], description="Selection method. Empty: the recipe's."
    ),
    "selector": Param(
        None,
        type=["null", "string"],
        minLength=1,
        description="URI of a trained OFA selector to apply, for the methods that have one. Empty: the recipe's.",
    ),
    "datasets": Param(
        None,
        type=["null", "array"],
        items={"type": "string", "pattern": r"^[^@/]+(@[^@/]+)?$"},
        minItems=1,
        description="Landed datasets of the pool: name (its newest version) or name@version. Empty: the recipe's.",
    ),
    "seed": Param(None, type=["null", "integer"], minimum=0, description="Seed of the selection. Empty: the recipe's."),
    "train_target": Param(
        default=True,
        type="boolean",
        description="Also tune the target on the subset and on random ones, as the recipe says, and compare them.",
    ),
    "channel": Param(
        None,
        type=["null", "string"],
        pattern=r"^[a-z0-9][a-z0-9_-]*$",
        description="Channel that moves to the selection. Empty: the recipe's.",
    ),
}
SETTINGS = {
    "method": "select.method",
    "selector": "selector.uri",
    "datasets": "datasets",
    "seed": "select.seed",
    "channel": "channel",
}


def request(params: Mapping[str, Any]) -> list[str]:
    """The params as arguments of `xmas-job resolve`.

    Raises:
        AirflowFailException: for a key that is none of ours; Airflow itself lets a misspelt one pass.
    """
    known_params(params, PARAMS)
    asked = {setting: params[name] for name, setting in SETTINGS.items() if params[name] is not None}
    if not params["train_target"]:
        asked["comparison"] = None
    settings = [argument for key, value in asked.items() for argument in ("--set", f"{key}={json.dumps(value)}")]
    return ["--recipe", params["recipe"], "--budget", params["budget"], *settings]


def params_with(defaults: Mapping[str, Any]) -> dict[str, Param]:
    """The params with other defaults.

    Raises:
        AirflowFailException: for a key that is none of ours.
    """
    known_params(defaults, PARAMS)
    return {
        name: Param(defaults.get(name, param.value), description=param.description, **param.schema)
        for name, param in PARAMS.items()
    }
