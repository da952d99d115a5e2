"""The command line's commands on comparisons: run one, start one for a launcher, report one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from xmas_job.console import (
    JsonOption,
    SetOption,
    for_a_launcher,
    print_json,
    print_table,
    read_environment,
    shown_stages,
)
from xmas_job.entrypoints import load_entrypoint

MethodsOption = Annotated[
    str, typer.Option("--methods", help="Names that `xmas-job methods` lists, or module:class, commas between.")
]
BudgetsOption = Annotated[str, typer.Option("--budgets", help="15%, 0.15 or 300, commas between.")]
SeedsOption = Annotated[
    int | None, typer.Option("--seeds", min=1, help="Target trainings an arm. Default: the recipe's.")
]
RecipeOption = Annotated[
    str, typer.Option("--recipe", help="A shipped recipe, or the path or URI of a YAML file; its comparison is used.")
]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (compare, compare_start, compare_report):
        app.command()(command)


def compare(
    methods: MethodsOption,
    budgets: BudgetsOption,
    seeds: SeedsOption = None,
    recipe: RecipeOption = "demo",
    settings: SetOption = None,
    comparison_id: Annotated[
        str | None,
        typer.Option("--id", help="Start, or continue, the comparison of this id. Default: follows from the request."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare methods at budgets with random subsets of the same size: one run each, and one report of all.

    What the runs share is built once. `random` is always in it; name `full` for the whole pool as a reference. What
    cannot run is told before anything is built and shown in the report. After an interruption, or with new data, give
    the same command again.
    """
    request = _request(recipe, methods, budgets, seeds, settings)
    work = load_entrypoint("xmas_job.commands.compare:compare")
    environment = read_environment()
    with shown_stages(environment) as show:
        result = work(environment, request, comparison_id, show)
    print_json(result) if as_json else _print_comparison(result)


def compare_start(
    methods: MethodsOption,
    budgets: BudgetsOption,
    comparison_id: Annotated[str, typer.Option("--id", help="Id of the comparison to start.")],
    seeds: SeedsOption = None,
    recipe: RecipeOption = "demo",
    settings: SetOption = None,
) -> None:
    """Start a comparison for a launcher: fix versions and models, start its runs, print them as JSON; build nothing."""
    with for_a_launcher():
        request = _request(recipe, methods, budgets, seeds, settings)
        print_json(load_entrypoint("xmas_job.commands.comparison:start")(read_environment(), request, comparison_id))


def compare_report(
    comparison_id: Annotated[str, typer.Argument(metavar="ID", help="Id of a comparison.")],
    as_json: JsonOption = False,
) -> None:
    """Write the joint report of a comparison from what its runs have come to so far."""
    with for_a_launcher():
        result = load_entrypoint("xmas_job.commands.comparison_report:report_comparison")(
            read_environment(), comparison_id
        )
    print_json(result) if as_json else _print_comparison(result)


def _request(recipe: str, methods: str, budgets: str, seeds: int | None, settings: list[str] | None) -> Any:
    kind = load_entrypoint("xmas_job.commands.comparison_request:Request")
    return kind(recipe, _names(methods), _names(budgets), seeds, tuple(settings or ()))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _print_comparison(result: dict[str, Any]) -> None:
    rows = [
        (
            row["method"],
            row["budget"],
            "-" if row["mean"] is None else f"{row['mean']:.3f}",
            _interval(row.get("difference")),
            _same_models(row.get("difference")),
            _verdict(row),
        )
        for row in sorted([*result["references"], *result["results"]], key=lambda row: str(row["budget"]))
    ]
    print_table(("method", "budget", "mean", "to random (95%)", "same models (95%)", "verdict (Holm)"), rows)
    if result["intervals"]:
        typer.echo(result["intervals"])
    for name in ("comparison", "verdict", "report"):
        typer.echo(f"{name:>12}  {result[name]}")


def _interval(difference: dict[str, Any] | None) -> str:
    return "-" if difference is None else "{mean:+.3f} ({low:+.3f} to {high:+.3f})".format(**difference)


def _same_models(difference: dict[str, Any] | None) -> str:
    return "-" if difference is None else "{low:+.3f} to {high:+.3f}".format(**difference["same_models"])


def _verdict(row: dict[str, Any]) -> str:
    if "state" not in row:
        return "reference"
    if row["difference"]:
        return str(row["difference"]["verdict"])
    return f"{row['state']}: {row['error']}" if row["error"] else "not measured"
