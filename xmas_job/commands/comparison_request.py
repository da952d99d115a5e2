"""What is asked of a comparison, as one ordinary run a method and budget.

Owns which runs there are, what they share and which are refused. Reads recipes; knows nothing of a store.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from xmas_job.catalog.methods import find_method
from xmas_job.catalog.needs import needs_of, parse_needs, united, written
from xmas_job.catalog.signals import EXTRACTED
from xmas_job.commands.resolve import read_recipe
from xmas_job.config import RunConfig
from xmas_job.core.budget import parse_budget
from xmas_job.errors import UsageError
from xmas_job.pipeline import FULL, RANDOM
from xmas_job.recipe_files import load_config

CHANNEL = "comparison"
"""Moves to what the runs of comparisons publish, so that none of them is trained on by mistake."""


@dataclass(frozen=True)
class Request:
    """A comparison as asked for."""

    recipe: str
    methods: tuple[str, ...]
    budgets: tuple[str, ...]
    num_seeds: int | None = None
    settings: tuple[str, ...] = ()
    """Dotted overrides of the recipe, for every run."""


@dataclass(frozen=True)
class Entry:
    """One method at one budget: the run that measures it, or why there can be none."""

    method: str
    budget: str
    config: RunConfig | None
    error: str = ""
    remedy: str = ""

    @property
    def name(self) -> str:
        """As part of a run's id."""
        return ".".join(
            re.sub(r"[^A-Za-z0-9_.+-]", "-", part.replace("%", "pct")) for part in (self.method, self.budget)
        )


def entries(request: Request) -> list[Entry]:
    """One entry a method and budget, in the order asked for; nothing is started.

    `random` and `full` are arms of every run, as what the others are compared with, and no entries of their own. Only
    where nothing else trains an arm of theirs, `random` is an entry: one more draw, compared with the others.

    Raises:
        UsageError: if a method or budget is unknown or named twice, if the recipe is wrong whatever the method, or if
            no method is left that can run.
    """
    _check_names(request)
    text = read_recipe(request.recipe) if "://" in request.recipe else None
    # What is wrong with the recipe itself is told once and by its own words, not once a method.
    recipe = load_config(request.recipe, [*request.settings, f"select.method={RANDOM}"], text)
    references = (RANDOM, FULL) if recipe.comparison else (FULL,)
    methods = [method for method in request.methods if method not in references] or [RANDOM]
    signals = shared_signals(methods, recipe)
    shared: dict[str, object] = {"channel": CHANNEL, "extract.signals": signals}
    if request.num_seeds is not None:
        shared["comparison.num_seeds"] = request.num_seeds
    if FULL in request.methods:
        shared["comparison.with_full"] = True
    own = _method_of_recipe(request, text)
    found = []
    for method in methods:
        # The recipe's parameters are of its own method.
        settings = {**shared, "select.method": method, **({} if method == own else {"select.params": {}})}
        found += [_entry(request, method, budget, settings, text) for budget in request.budgets]
    if all(entry.config is None for entry in found):
        reasons = {entry.error: entry.remedy for entry in found}
        raise UsageError(" ".join(reasons), next(iter(reasons.values())))
    return found


def shared_signals(methods: Sequence[str], recipe: RunConfig) -> tuple[str, ...]:
    """What extraction computes in every run, so that they share it: what the recipe names and any method needs."""
    needed = [need for method in methods for need in needs_of(find_method(method)) if need.signal in EXTRACTED]
    return written(united((*parse_needs(recipe.extract.signals), *needed)))


def _entry(request: Request, method: str, budget: str, settings: dict[str, object], text: bytes | None) -> Entry:
    overrides = _overrides({**settings, "publish.budget": budget})
    try:
        config = load_config(request.recipe, [*request.settings, *overrides], text)
    except UsageError as error:
        return Entry(method, budget, None, error.message, error.remedy)
    return Entry(method, budget, config)


def _overrides(settings: dict[str, object]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


def _method_of_recipe(request: Request, text: bytes | None) -> str | None:
    try:
        return load_config(request.recipe, request.settings, text).select.method
    except UsageError:
        return None  # refused itself, so no method takes its parameters


def _check_names(request: Request) -> None:
    for kind, names in (("method", request.methods), ("budget", request.budgets)):
        if not names:
            raise UsageError(
                f"no {kind} is named.", f"Name at least one, e.g. --{kind}s {'xmas' if kind == 'method' else '15%'}."
            )
    for method in request.methods:
        find_method(method)
    sizes = []
    for budget in request.budgets:
        try:
            sizes.append(parse_budget(budget))
        except ValueError as error:
            raise UsageError(f"{error}.", "Correct it and run again.") from None
    pairs: list[tuple[Sequence[str], Sequence[object]]] = [(request.methods, request.methods), (request.budgets, sizes)]
    for asked, meant in pairs:
        for place, one in enumerate(meant):
            if one in meant[:place]:
                first, again = asked[meant.index(one)], asked[place]
                raise UsageError(f"{first!r} and {again!r} are the same.", "Name each method and budget once.")
