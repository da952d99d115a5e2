"""The command line: parses, calls, prints. The only place that prints; every command's work is reached by name."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from xmas_job import __version__
from xmas_job.config import RunConfig, load_config
from xmas_job.entrypoints import load_entrypoint
from xmas_job.environment import Environment, load_environment
from xmas_job.errors import TryAgainError, UsageError, XmasError
from xmas_job.logs import configure_logs
from xmas_job.progress import StageBoard

app = typer.Typer(
    help="Which B of these N examples should the next vision-language fine-tune use?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
demo = typer.Typer(
    help="A procedural pool and tiny models, to see the whole line run on a laptop.", no_args_is_help=True
)
app.add_typer(demo, name="demo")

RecipeOption = Annotated[str, typer.Option("--recipe", help="A shipped recipe (demo, ...) or the path of a YAML file.")]
BudgetOption = Annotated[str | None, typer.Option("--budget", help="15%, 0.15 or 300. Default: the recipe's.")]
MethodOption = Annotated[
    str | None,
    typer.Option("--method", help="A name that `xmas-job methods` lists, or module:class. Default: the recipe's."),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="section.key=value, any setting of the recipe; repeatable.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]


@app.callback(invoke_without_command=True)
def version(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Options of the command itself."""
    if show_version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def run(
    recipe: RecipeOption,
    budget: BudgetOption = None,
    method: MethodOption = None,
    settings: SetOption = None,
    run_id: Annotated[str | None, typer.Option("--run-id", help="Start, or continue, the run of this id.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run the whole line here: landed data to a published subset, a tuned target and a report.

    Everything that is there already is reused; after an interruption, give the same command again.
    """
    config = _config(recipe, budget, method, settings)
    work = load_entrypoint("xmas_job.commands.run:run_line")
    environment = _environment()
    if sys.stderr.isatty() and environment.log_format != "json":
        with StageBoard() as board:
            result = work(environment, config, run_id, board.show)
    else:
        result = work(environment, config, run_id, None)
    _print_json(result) if as_json else _print_run(result)


@app.command()
def plan(
    recipe: RecipeOption,
    budget: BudgetOption = None,
    method: MethodOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a run would reuse (HIT), finish (PARTIAL) and build (MISS; UNKNOWN until its inputs are built)."""
    config = _config(recipe, budget, method, settings)
    result = load_entrypoint("xmas_job.commands.plan:plan_run")(_environment(), config)
    if as_json:
        _print_json(result)
        return
    rows = [(stage["stage"], stage["state"], _progress(stage), stage["artifact"] or "") for stage in result["stages"]]
    _print_table(("stage", "state", "", "artifact"), rows)


@app.command()
def resolve(
    recipe: RecipeOption,
    run_id: Annotated[str, typer.Option("--run-id", help="Id of the run to start.")],
    budget: BudgetOption = None,
    method: MethodOption = None,
    settings: SetOption = None,
) -> None:
    """Start a run for a launcher: fix versions and models by content, write run.json, print the stages as JSON."""
    with _for_a_launcher():
        config = _config(recipe, budget, method, settings)
        _print_json(load_entrypoint("xmas_job.commands.resolve:start")(_environment(), config, run_id))


@app.command()
def stage(
    name: Annotated[str, typer.Argument(help="A stage of the run, e.g. pool or extract:demo@v1.")],
    run_id: Annotated[str, typer.Option("--run", help="Id of a started run.")],
    partition: Annotated[
        int | None,
        typer.Option("--partition", min=0, help="Only this partition. Default: all that are free, then seal."),
    ] = None,
) -> None:
    """Build or find one stage of a started run. Prints one JSON line; exit codes tell a launcher what to do."""
    with _for_a_launcher():
        _print_json(load_entrypoint("xmas_job.commands.stage:run_stage")(_environment(), run_id, name, partition))


@app.command()
def reuse(
    name: Annotated[str, typer.Argument(help="A stage of the line, e.g. extract: all of its kind in the run.")],
    run_id: Annotated[str, typer.Option("--run", help="Id of a started run.")],
) -> None:
    """Take into the run what is there already of a stage, and print what is left to build, as JSON; builds nothing."""
    with _for_a_launcher():
        _print_json(load_entrypoint("xmas_job.commands.reuse:reuse")(_environment(), run_id, name))


@app.command()
def show(
    run_id: Annotated[str, typer.Argument(help="Id of a run, or latest.")] = "latest",
    as_json: JsonOption = False,
) -> None:
    """Show what became of a run: selection, report, and every stage."""
    result = load_entrypoint("xmas_job.commands.show:show_run")(_environment(), run_id)
    _print_json(result) if as_json else _print_run(result)


@app.command()
def verify(
    selection: Annotated[str, typer.Argument(help="Folder or file:// URI of a selection, or its id in the store.")],
    as_json: JsonOption = False,
) -> None:
    """Prove a selection offline: its id follows from its manifest, and every file is what the manifest says."""
    result = load_entrypoint("xmas_job.commands.verify:verify_selection")(_environment(), selection)
    if as_json:
        _print_json(result)
    else:
        typer.echo(f"{result['selection']}: {result['num_files']} files and the manifest are what they say.")


@app.command()
def methods(as_json: JsonOption = False) -> None:
    """List the selection methods: paper, signals, whether one ranking serves every budget, cost, what each keeps."""
    result = load_entrypoint("xmas_job.commands.methods:list_methods")()
    if as_json:
        _print_json(result)
        return
    rows = [
        (
            method["name"] + (" (experimental)" if method["experimental"] else ""),
            method["keeps"],
            ", ".join(f"{need['signal']} ({need['checkpoints']})" for need in method["signals"]) or "none",
            "yes" if method["nested"] else "no",
            method["cost"],
            f"needs {', '.join(method['missing'])}" if method["missing"] else "yes",
            method["paper"],
        )
        for method in result["methods"]
    ]
    _print_table(("method", "keeps", "signals (checkpoints)", "nested", "cost", "served", "paper"), rows)


@demo.command()
def land(as_json: JsonOption = False) -> None:
    """Write the demo's data and models into the store, as any dataset lands. Does nothing if they are there."""
    result = load_entrypoint("xmas_job.commands.demo:land")(_environment())
    if as_json:
        _print_json(result)
    else:
        typer.echo("landed: " + ", ".join(result["landed"]))
        typer.echo("next: xmas-job run --recipe demo --budget 15%")


def main() -> None:
    """Run the command line; expected errors become one line, their remedy and their exit code."""
    try:
        # Outside of its standalone mode, click returns the code of an Exit.
        sys.exit(app(standalone_mode=False))
    except typer.Abort:
        sys.exit(130)
    except (XmasError, OSError) as error:
        expected = _expected(error)
        _say_error(expected.message, expected.remedy)
        sys.exit(expected.exit_code)
    except Exception as error:
        # Click's usage errors: they know how to show themselves. Anything else is a defect and keeps its trace.
        if not hasattr(error, "format_message"):
            raise
        if error.format_message():  # else it has shown the help, because there were no arguments
            _say_error(error.format_message(), "See --help.")
        sys.exit(2)


@contextmanager
def _for_a_launcher() -> Iterator[None]:
    """End with the launcher; an expected error is the last line on stdout, as JSON."""
    has_parent = load_entrypoint("xmas_job.commands.process:exit_with_parent")()
    try:
        yield
    except (XmasError, OSError) as error:
        expected = _expected(error)
        _print_json({"error": expected.message, "remedy": expected.remedy, "exit_code": expected.exit_code})
        if has_parent:  # which says it once, to the person
            raise typer.Exit(expected.exit_code) from error
        raise


def _expected(error: XmasError | OSError) -> XmasError:
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


def _config(recipe: str, budget: str | None, method: str | None, settings: list[str] | None) -> RunConfig:
    named = {"publish.budget": budget, "select.method": method}
    overrides = [f"{key}={json.dumps(value)}" for key, value in named.items() if value is not None]
    return load_config(recipe, [*(settings or []), *overrides])


def _environment() -> Environment:
    environment = load_environment()
    configure_logs(environment.log_format)
    return environment


def _progress(stage: dict[str, Any]) -> str:
    if "partitions" in stage:
        return "{} of {} partitions".format(*stage["partitions"])
    seconds = stage.get("seconds_when_built")
    return f"{seconds:.0f} s when built" if seconds is not None else ""


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value))


def _print_run(result: dict[str, Any]) -> None:
    rows = [
        (stage["stage"], stage["status"], f"{stage['seconds']:.1f} s", stage["digest"][:12])
        for stage in result["stages"]
    ]
    _print_table(
        ("stage", "status", "time", "digest"), [*rows, *((name, "missing", "", "") for name in result["missing"])]
    )
    for name in ("run", "status", "selection_id", "num_examples", "manifest", "report", "channel"):
        typer.echo(f"{name:>12}  {result[name] if result[name] is not None else '-'}")


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    Console().print(table)


def _say_error(message: str, remedy: str) -> None:
    typer.secho(f"error: {message}", err=True, fg=typer.colors.RED)
    if remedy:
        typer.echo(f"  {remedy}", err=True)


if __name__ == "__main__":
    main()
