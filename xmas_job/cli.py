"""The command line: parses, calls, prints; every command's work is reached by name. Here: the line and its runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from xmas_job import __version__, comparison_commands, store_commands
from xmas_job.console import (
    BudgetOption,
    JsonOption,
    MethodOption,
    RecipeOption,
    SelectorOption,
    SetOption,
    expected_error,
    for_a_launcher,
    print_json,
    print_table,
    read_config,
    read_environment,
    shown_stages,
)
from xmas_job.entrypoints import load_entrypoint
from xmas_job.errors import UsageError, XmasError

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

comparison_commands.add_to(app)
store_commands.add_to(app)


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
    selector: SelectorOption = None,
    settings: SetOption = None,
    run_id: Annotated[str | None, typer.Option("--run-id", help="Start, or continue, the run of this id.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run the whole line here: landed data to a published subset, a tuned target and a report.

    Everything that is there already is reused; after an interruption, give the same command again.
    """
    config = read_config(recipe, budget, method, settings, selector)
    work = load_entrypoint("xmas_job.commands.run:run_line")
    environment = read_environment()
    with shown_stages(environment) as show:
        result = work(environment, config, run_id, show)
    print_json(result) if as_json else _print_run(result)


@app.command()
def preflight(
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="Also ask for this recipe's device, data and models.")
    ] = None,
    is_telling: Annotated[bool, typer.Option("--tell", help="Also send an alert to all of XMAS_ALERT_URLS.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Look for what would stop a run: GPUs, memory, disk, store, models, alerts; exit code 2 if anything would.

    Ask where the stages run, e.g. docker run --rm --gpus all --shm-size 1g xmas-job preflight.
    """
    config = read_config(recipe) if recipe else None
    result = load_entrypoint("xmas_job.commands.preflight:preflight")(read_environment(), config, is_telling=is_telling)
    if as_json:
        print_json(result)
    else:
        rows = [("ok" if c["is_ok"] else "NO", c["check"], c["found"], c["to_do"]) for c in result["checks"]]
        print_table(("", "check", "found", "what to do"), rows)
    if not result["is_ok"]:
        raise typer.Exit(UsageError.exit_code)


@app.command()
def plan(
    recipe: RecipeOption,
    budget: BudgetOption = None,
    method: MethodOption = None,
    selector: SelectorOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a run would reuse (HIT), finish (PARTIAL) and build (MISS; UNKNOWN until its inputs are built)."""
    config = read_config(recipe, budget, method, settings, selector)
    result = load_entrypoint("xmas_job.commands.plan:plan_run")(read_environment(), config)
    if as_json:
        print_json(result)
        return
    rows = [
        (stage["stage"], stage["state"], _progress(stage), _estimate(stage), stage["artifact"] or "")
        for stage in result["stages"]
    ]
    print_table(("stage", "state", "", "estimate", "artifact"), rows)


@app.command()
def resolve(
    recipe: RecipeOption,
    run_id: Annotated[str, typer.Option("--run-id", help="Id of the run to start.")],
    budget: BudgetOption = None,
    method: MethodOption = None,
    selector: SelectorOption = None,
    settings: SetOption = None,
) -> None:
    """Start a run for a launcher: fix versions and models by content, write run.json, print the stages as JSON."""
    with for_a_launcher():
        config = read_config(recipe, budget, method, settings, selector)
        print_json(load_entrypoint("xmas_job.commands.resolve:start")(read_environment(), config, run_id))


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
    with for_a_launcher():
        print_json(load_entrypoint("xmas_job.commands.stage:run_stage")(read_environment(), run_id, name, partition))


@app.command()
def reuse(
    name: Annotated[str, typer.Argument(help="A stage of the line, e.g. extract: all of its kind in the run.")],
    run_id: Annotated[str, typer.Option("--run", help="Id of a started run.")],
) -> None:
    """Take into the run what is there already of a stage, and print what is left to build, as JSON; builds nothing."""
    with for_a_launcher():
        print_json(load_entrypoint("xmas_job.commands.reuse:reuse")(read_environment(), run_id, name))


@app.command()
def landed(
    recipe: RecipeOption,
    budget: BudgetOption = None,
    method: MethodOption = None,
    settings: SetOption = None,
) -> None:
    """Name the run that the newest landed versions ask for, as JSON; exit code 99 if it was started. Starts nothing."""
    with for_a_launcher():
        config = read_config(recipe, budget, method, settings)
        request = {"recipe": recipe, "budget": budget, "method": method, "settings": sorted(settings or [])}
        work = load_entrypoint("xmas_job.commands.landed:run_for_landed")
        print_json(work(read_environment(), config, request))


@app.command()
def watch(
    last: Annotated[int, typer.Option("--last", min=1, help="How many runs to look at.")] = 10,
    as_json: JsonOption = False,
) -> None:
    """Look at the last runs for what the alert rules tell of, and tell it to XMAS_ALERT_URLS, each thing once."""
    result = load_entrypoint("xmas_job.commands.watch:watch")(read_environment(), last)
    if as_json:
        print_json(result)
        return
    rows = [(a["rule"], a["run"], a["stage"], "told" if a["told"] else "", a["error"]) for a in result["alerts"]]
    print_table(("rule", "run", "stage", "", ""), rows)


@app.command()
def show(
    run_id: Annotated[str, typer.Argument(help="Id of a run, or latest.")] = "latest",
    as_json: JsonOption = False,
) -> None:
    """Show what became of a run: selection, report, and every stage."""
    result = load_entrypoint("xmas_job.commands.show:show_run")(read_environment(), run_id)
    print_json(result) if as_json else _print_run(result)


@app.command()
def methods(as_json: JsonOption = False) -> None:
    """List the selection methods: what each keeps, needs and costs, and whether one ranking serves every budget."""
    result = load_entrypoint("xmas_job.commands.methods:list_methods")()
    if as_json:
        print_json(result)
        return
    rows = [
        (
            method["name"] + (" (experimental)" if method["experimental"] else ""),
            method["keeps"],
            ", ".join(f"{need['signal']} ({need['checkpoints']})" for need in method["signals"]) or "none",
            "yes" if method["nested"] else "no",
            method["cost"],
            ", ".join(method["models"]) or "none",
            method["paper"],
        )
        for method in result["methods"]
    ]
    print_table(("method", "keeps", "signals (checkpoints)", "nested", "cost", "models", "paper"), rows)


@app.command()
def compose(
    language_model: Annotated[str, typer.Argument(help="Folder or hub id, e.g. stabilityai/stablelm-2-zephyr-1_6b.")],
    vision_tower: Annotated[str, typer.Argument(help="Folder or hub id, e.g. openai/clip-vit-large-patch14-336.")],
    directory: Annotated[Path, typer.Argument(help="Folder to write; a recipe's proxy.model or target.model.")],
    projector: Annotated[
        Path | None, typer.Option("--projector", help="Its stage-1 weights, safetensors. Default: random.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of a random projector.")] = 0,
    pads_to_square: Annotated[
        bool, typer.Option("--pad-to-square", help="Pad pictures, as LLaVA-1.5. Default: as the tower cuts them.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Join a language model and a vision tower into one LVLM folder, where a training starts as the papers do."""
    work = load_entrypoint("xmas_job.commands.compose:compose_model")
    result = work(language_model, vision_tower, directory, projector, seed, pads_to_square=pads_to_square)
    if as_json:
        print_json(result)
    else:
        for name, value in result.items():
            typer.echo(f"{name:>20}  {value}")


@demo.command()
def land(as_json: JsonOption = False) -> None:
    """Write the demo's data and models into the store, as any dataset lands. Does nothing if they are there."""
    result = load_entrypoint("xmas_job.commands.demo:land")(read_environment())
    if as_json:
        print_json(result)
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
        expected = expected_error(error)
        _say_error(expected.message, expected.remedy)
        sys.exit(expected.exit_code)
    except Exception as error:
        # Click's usage errors: they know how to show themselves. Anything else is a defect and keeps its trace.
        if not hasattr(error, "format_message"):
            raise
        if error.format_message():  # else it has shown the help, because there were no arguments
            _say_error(error.format_message(), "See --help.")
        sys.exit(2)


def _progress(stage: dict[str, Any]) -> str:
    if "partitions" in stage:
        return "{} of {} partitions".format(*stage["partitions"])
    seconds = stage.get("seconds_when_built")
    return f"{seconds:.0f} s when built" if seconds is not None else ""


def _estimate(stage: dict[str, Any]) -> str:
    found = stage["estimate"]
    if found is None or found["gpu_hours"] is None:
        return ""
    memory = "" if found["memory_gb"] is None else f", {found['memory_gb']:.0f} GB"
    used = stage.get("cost_when_built", {}).get("gpu_hours")
    return f"{found['gpu_hours']:.3g} h {found['gpu']}{memory}" + ("" if used is None else f" (took {used:.3g} h)")


def _print_run(result: dict[str, Any]) -> None:
    rows = [
        (stage["stage"], stage["status"], f"{stage['seconds']:.1f} s", stage["digest"][:12])
        for stage in result["stages"]
    ]
    print_table(
        ("stage", "status", "time", "digest"), [*rows, *((name, "missing", "", "") for name in result["missing"])]
    )
    for name in ("run", "status", "selection_id", "num_examples", "manifest", "report", "channel"):
        typer.echo(f"{name:>12}  {result[name] if result[name] is not None else '-'}")


def _say_error(message: str, remedy: str) -> None:
    typer.secho(f"error: {message}", err=True, fg=typer.colors.RED)
    if remedy:
        typer.echo(f"  {remedy}", err=True)


if __name__ == "__main__":
    main()
