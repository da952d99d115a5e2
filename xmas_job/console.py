"""What all commands share: options, settings, and how a result is printed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from xmas_job.config import RunConfig
from xmas_job.entrypoints import load_entrypoint
from xmas_job.environment import Environment, load_environment
from xmas_job.logs import configure_logs
from xmas_job.recipe_files import load_config

RecipeOption = Annotated[
    str, typer.Option("--recipe", help="A shipped recipe (demo, ...), or the path or URI of a YAML file.")
]
BudgetOption = Annotated[str | None, typer.Option("--budget", help="15%, 0.15 or 300. Default: the recipe's.")]
MethodOption = Annotated[
    str | None,
    typer.Option("--method", help="A name that `xmas-job methods` lists, or module:class. Default: the recipe's."),
]
SelectorOption = Annotated[
    str | None,
    typer.Option("--selector", help="A trained OFA selector: folder, key or URI. Default: the recipe's, or train one."),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="section.key=value, any setting of the recipe; repeatable.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]


def read_config(
    recipe: str,
    budget: str | None = None,
    method: str | None = None,
    settings: list[str] | None = None,
    selector: str | None = None,
) -> RunConfig:
    """The configuration that the options name."""
    named = {"publish.budget": budget, "select.method": method, "selector.uri": selector}
    overrides = [f"{key}={json.dumps(value)}" for key, value in named.items() if value is not None]
    text = load_entrypoint("xmas_job.commands.resolve:read_recipe")(recipe) if "://" in recipe else None
    return load_config(recipe, [*(settings or []), *overrides], text)


def read_environment() -> Environment:
    """The environment's settings, with logs set up by them."""
    environment = load_environment()
    configure_logs(environment.log_format)
    return environment


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on stdout."""
    typer.echo(json.dumps(value))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns under their names."""
    table = Table(box=None, pad_edge=False)
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    Console().print(table)
