"""Recipes: YAML files of a run's configuration, shipped or one's own, with a base and dotted overrides.

Owns reading and merging. What the keys mean, and whether they are right, is in `config`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from xmas_job.config import RunConfig, validate_config
from xmas_job.errors import UsageError


def recipe_names() -> list[str]:
    """Names of the recipes shipped with the package, e.g. "demo" or "ablations/last_layer"."""
    folder = _recipe_folder()
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def _recipe_folder() -> Path:
    return Path(str(resources.files("xmas_job"))) / "recipes"


def load_config(recipe: str, overrides: Sequence[str] = (), text: bytes | None = None) -> RunConfig:
    """A recipe (a shipped name, or the path of a YAML file) with dotted overrides.

    A recipe may name another as its `base` and then holds only what differs.

    Args:
        recipe: e.g. "demo" or "runs/weekly.yaml".
        overrides: e.g. ["publish.budget=10%", "cluster.num_clusters=50"]; values are YAML.
        text: content of a recipe that was read from a store already; `recipe` then only names it.

    Raises:
        UsageError: for an unknown recipe, a bad override, an unknown key or a wrong value.
    """
    data = _with_bases(recipe, _recipe_text(recipe) if text is None else text)
    for override in overrides:
        _apply_override(data, override)
    return validate_config(data, where=f"recipe {recipe}")


def _with_bases(recipe: str, text: bytes) -> dict[str, Any]:
    data = _parse_recipe(recipe, text)
    names = [recipe]
    while (base := data.pop("base", None)) is not None:
        if str(base) in names:
            raise UsageError(f"recipe {recipe} is its own base, by way of {base}.", "Take one `base` out.")
        names.append(str(base))
        data = _merged(_parse_recipe(names[-1], _recipe_text(names[-1])), data)
    return data


def _recipe_text(recipe: str) -> bytes:
    if recipe in recipe_names():
        return (_recipe_folder() / f"{recipe}.yaml").read_bytes()
    if Path(recipe).is_file():
        return Path(recipe).read_bytes()
    raise UsageError(
        f"there is no recipe {recipe!r}.", f"Known: {', '.join(recipe_names())}; or give the path of a YAML file."
    )


def _parse_recipe(recipe: str, text: bytes) -> dict[str, Any]:
    data = _parse_yaml(text, f"recipe {recipe}")
    if not isinstance(data, dict):
        raise UsageError(f"recipe {recipe} is no mapping of sections.", "Start from a shipped recipe.")
    return data


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `changes`; sections are merged key by key."""
    merged = dict(base)
    for key, value in changes.items():
        is_section = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merged(base[key], value) if is_section else value
    return merged


def _parse_yaml(text: bytes | str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{where} is not YAML: {' '.join(str(error).split())}.", "Correct it.") from None


def _apply_override(data: dict[str, Any], override: str) -> None:
    path, separator, value = override.partition("=")
    keys = path.strip().split(".")
    if not separator or not all(keys):
        raise UsageError(f"override {override!r} is not of the form section.key=value.", "E.g. cluster.num_clusters=50")
    node = data
    for key in keys[:-1]:
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            raise UsageError(f"override {override!r}: {key!r} is a value, not a section.", "Check the recipe.")
    node[keys[-1]] = _parse_yaml(value, f"override {override!r}")
