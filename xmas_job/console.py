"""What all commands share: options, settings, how a result is printed, and how an error is told."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from xmas_job.catalog.methods import find_method
from xmas_job.config import RunConfig
from xmas_job.entrypoints import load_entrypoint
from xmas_job.environment import Environment, load_environment
from xmas_job.errors import TryAgainError, UsageError, XmasError
from xmas_job.logs import configure_logs
from xmas_job.progress import StageBoard
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

_own_stdout: ContextVar[TextIO | None] = ContextVar("own_stdout", default=None)
"""Where results go while what libraries print goes to stderr; None for the usual stdout."""


def read_config(
    recipe: str,
    budget: str | None = None,
    method: str | None = None,
    settings: list[str] | None = None,
    selector: str | None = None,
) -> RunConfig:
    """The configuration that the options name.

    Raises:
        UsageError: if it is no configuration, or a selector is named that its method does not read.
    """
    named = {"publish.budget": budget, "select.method": method, "selector.uri": selector}
    overrides = [f"{key}={json.dumps(value)}" for key, value in named.items() if value is not None]
    text = load_entrypoint("xmas_job.commands.resolve:read_recipe")(recipe) if "://" in recipe else None
    config = load_config(recipe, [*(settings or []), *overrides], text)
    clustering = find_method(config.select.method).clustering
    if selector is not None and not (clustering and clustering.by == "selector"):
        raise UsageError(
            f"--selector {selector}: method {config.select.method!r} reads no selector.",
            "Leave it out, or add --method ofa.",
        )
    return config


def read_environment() -> Environment:
    """The environment's settings, with logs set up by them."""
    environment = load_environment()
    configure_logs(environment.log_format)
    return environment


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on stdout."""
    typer.echo(json.dumps(value), file=_own_stdout.get())


WIDE = 200


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns under their names."""
    table = Table(box=None, pad_edge=False)
    for index, name in enumerate(header):
        table.add_column(name, overflow="fold", no_wrap=index == 0)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    # Where no terminal says how wide it is, a row stays on one line, to be searched.
    Console(width=None if sys.stdout.isatty() else WIDE).print(table)


@contextmanager
def shown_stages(environment: Environment) -> Iterator[Callable[[str, Mapping[str, Any]], None] | None]:
    """What shows the events of stages: a board where a person looks on, else None, and the log tells them."""
    if sys.stderr.isatty() and environment.log_format != "json":
        with StageBoard() as board:
            yield board.show
    else:
        yield None


@contextmanager
def for_a_launcher() -> Iterator[None]:
    """End with the launcher; an expected error is the one line on stdout, as JSON. What libraries print goes to stderr.

    DeepSpeed logs to the stdout that it finds when it is imported.
    """
    has_parent = load_entrypoint("xmas_job.commands.process:exit_with_parent")()
    before = _own_stdout.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (XmasError, OSError) as error:
        expected = expected_error(error)
        print_json({"error": expected.message, "remedy": expected.remedy, "exit_code": expected.exit_code})
        if has_parent:  # which says it once, to the person
            raise typer.Exit(expected.exit_code) from error
        raise
    finally:
        _own_stdout.reset(before)


def expected_error(error: XmasError | OSError) -> XmasError:
    """An operating system's refusal as an error with a remedy; other OSErrors are defects and keep their trace."""
    if isinstance(error, XmasError):
        return error
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return TryAgainError(
            f"no space left for {error.filename or 'a file'}: {os.strerror(error.errno)}.",
            "Free some space, or point XMAS_STORE_ROOT and XMAS_SCRATCH elsewhere; then give the same command again: "
            "what was finished is kept.",
        )
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}:
        return UsageError(
            f"cannot use {error.filename}: {os.strerror(error.errno)}.",
            "Check the folders of XMAS_STORE_ROOT and XMAS_SCRATCH and who may read and write there.",
        )
    raise error
