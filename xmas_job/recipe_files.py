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

TRAININGS = "trainings/"
_TRAINED: tuple[tuple[str, ...], ...] = (("proxy",), ("comparison", "target"))
"""Sections that may name a training and then hold only what differs from it."""


def recipe_names() -> list[str]:
    """Names of the recipes shipped with the package, e.g. "demo" or "ablations/last_layer"."""
    return [name for name in _shipped() if not name.startswith(TRAININGS)]


def training_names() -> list[str]:
    """Names of the trainings shipped with the package, e.g. "llava_1_5_7b_lora"."""
    return [name.removeprefix(TRAININGS) for name in _shipped() if name.startswith(TRAININGS)]


def load_training(name: str) -> dict[str, Any]:
    """A named training: model, LoRA and settings, as a proxy or target section takes them.

    Raises:
        UsageError: for an unknown name.
    """
    if name not in training_names():
        raise UsageError(f"there is no training {name!r}.", f"Known: {', '.join(training_names())}.")
    data = _parse_recipe(name, (_recipe_folder() / f"{TRAININGS}{name}.yaml").read_bytes())
    base = data.pop("base", None)
    return data if base is None else _merged(load_training(base), data)


def _shipped() -> list[str]:
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
    for section in _TRAINED:
        data = _with_training(data, section)
    return validate_config(data, where=f"recipe {recipe}")


def _with_training(data: dict[str, Any], section: tuple[str, ...]) -> dict[str, Any]:
    """The named training (`recipe`) of a section written out, under what the section itself says."""
    name, *rest = section
    inner = data.get(name)
    if not isinstance(inner, dict):
        return data
    if rest:
        return {**data, name: _with_training(inner, tuple(rest))}
    own = dict(inner)
    training = own.pop("recipe", None)
    return data if training is None else {**data, name: _merged(load_training(str(training)), own)}


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
