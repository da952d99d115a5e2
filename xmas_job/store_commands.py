"""The command line's commands on what the store holds: status, proofs, channels, clearing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from xmas_job.console import (
    BudgetOption,
    JsonOption,
    MethodOption,
    RecipeOption,
    SetOption,
    print_json,
    print_table,
    read_config,
    read_environment,
)
from xmas_job.entrypoints import load_entrypoint

channel = typer.Typer(help="Channels: named pointers to selections, with their history.", no_args_is_help=True)

WhyOption = Annotated[str, typer.Option("--why", help="A reason, kept in the channel's history.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(channel, name="channel")
    for command in (status, explain_cache, verify, pull, promote, rollback, gc):
        app.command()(command)


def status(
    run_id: Annotated[str | None, typer.Argument(help="Id of a run, or latest. Default: the last runs.")] = None,
    last: Annotated[int, typer.Option("--last", min=1, help="How many runs to show.")] = 10,
    watch: Annotated[
        bool, typer.Option(help="Look twice, to see heartbeats on other machines move; takes up to some 20 s.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Show what runs, where, how far, and what failed last with the command to go on; from the store alone."""
    work = "xmas_job.commands.status:status_of_run" if run_id else "xmas_job.commands.status:status_of_runs"
    if run_id:
        result = load_entrypoint(work)(read_environment(), run_id, watch=watch)
    else:
        result = load_entrypoint(work)(read_environment(), last)
    if as_json:
        print_json(result)
    elif run_id:
        _print_status(result)
    else:
        rows = [
            (run["run"], run["state"], "{} of {}".format(*run.get("done", "??")), _where(run)) for run in result["runs"]
        ]
        print_table(("run", "state", "stages", ""), rows)


def explain_cache(
    recipe: RecipeOption,
    budget: BudgetOption = None,
    method: MethodOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show for every stage that would be built what differs from the artifact that comes nearest."""
    config = read_config(recipe, budget, method, settings)
    result = load_entrypoint("xmas_job.commands.explain:explain_cache")(read_environment(), config)
    if as_json:
        print_json(result)
        return
    for stage in result["stages"]:
        typer.echo(f"{stage['state']:>8}  {stage['stage']}" + _nearest(stage))
        _print_differences(stage.get("differences", []), "            ")


def verify(
    selection: Annotated[str, typer.Argument(help="Folder or URI of a selection, or its id in the store.")],
    recompute: Annotated[
        bool,
        typer.Option("--recompute", help="Also check every artifact behind it, and derive it again from the signals."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Prove a selection: its id follows from its manifest, and every file is what the manifest says.

    Offline, from its files alone; with --recompute, in its store, on the CPU: trajectories, clusters, ranking and cut
    are made again from the stored signals and compared byte by byte.
    """
    result = load_entrypoint("xmas_job.commands.verify:verify_selection")(read_environment(), selection)
    if recompute:
        result |= load_entrypoint("xmas_job.commands.recompute:recompute_selection")(read_environment(), selection)
    if as_json:
        print_json(result)
        return
    typer.echo(f"{result['selection']}: {result['num_files']} files and the manifest are what they say.")
    if recompute:
        typer.echo(
            f"{result['num_checked_files']} files of {result['num_artifacts']} artifacts behind it are as recorded; "
            f"derived again with equal bytes: {', '.join(result['recomputed'])}."
        )


def pull(
    name: Annotated[str, typer.Argument(help="A channel, or the id of a selection.")],
    folder: Annotated[Path, typer.Argument(help="A folder that is empty or not there.")],
    as_json: JsonOption = False,
) -> None:
    """Fetch a selection from the store into a folder, every byte checked."""
    result = load_entrypoint("xmas_job.commands.channel:pull")(read_environment(), name, folder)
    if as_json:
        print_json(result)
    else:
        typer.echo(f"{result['selection']}: {result['num_files']} files and the manifest are in {result['folder']}.")


@channel.command()
def show(
    name: Annotated[str, typer.Argument(help="The channel.")],
    as_json: JsonOption = False,
) -> None:
    """Show where a channel points and how it came there."""
    result = load_entrypoint("xmas_job.commands.channel:show")(read_environment(), name)
    if as_json:
        print_json(result)
        return
    rows = [
        (str(move["number"]), move["selection"], move["when"], move["who"], move["run"] or _by_hand(move))
        for move in result["moves"]
    ]
    print_table(("", "selection", "when", "who", "run"), rows)


def promote(
    selection: Annotated[str, typer.Argument(help="Id of a selection in the store.")],
    to: Annotated[str, typer.Option("--to", help="The channel.")],
    why: WhyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Point a channel at a selection, after checking its every file."""
    result = load_entrypoint("xmas_job.commands.channel:promote")(read_environment(), selection, to, why)
    _print_move(result, as_json=as_json)


def rollback(
    name: Annotated[str, typer.Argument(metavar="CHANNEL", help="The channel.")],
    why: WhyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Point a channel at what it pointed at before; repeated, it goes back one more. The history stays."""
    result = load_entrypoint("xmas_job.commands.channel:rollback")(read_environment(), name, why)
    _print_move(result, as_json=as_json)


def gc(
    delete: Annotated[bool, typer.Option("--delete", help="Delete. Default: only show what would go.")] = False,
    runs: Annotated[int, typer.Option("--keep-runs", min=0, help="Keep what the last runs reach.")] = 10,
    moves: Annotated[int, typer.Option("--keep-moves", min=1, help="Keep what a channel's last moves reach.")] = 10,
    hours: Annotated[
        float,
        typer.Option("--keep-hours", min=0, help="A run of which a process started so shortly ago counts as at work."),
    ] = 72.0,
    selections: Annotated[
        bool, typer.Option("--selections", help="Also published selections that nothing kept reaches.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Clear the store of what no channel, no run at work and none of the last runs reaches. Shows only, by default.

    Run folders and landed data stay. Runs that start meanwhile wait.
    """
    kept = load_entrypoint("xmas_job.commands.gc:Keep")(runs, moves, hours, not selections)
    result = load_entrypoint("xmas_job.commands.gc:clear")(read_environment(), kept, delete=delete)
    if as_json:
        print_json(result)
        return
    rows = [(item["kind"], item["name"], f"{item['bytes']:,}", item["why"]) for item in result["items"]]
    print_table(("", "what", "bytes", "why"), rows)
    done = "deleted" if delete else "would go (delete with --delete)"
    typer.echo(f"{len(rows)} things, {result['bytes']:,} bytes {done}; {result['num_kept_artifacts']} artifacts stay.")


def _print_move(result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(result)
    else:
        typer.echo(f"{result['channel']}: {result['before'] or '-'} -> {result['selection']}")


def _by_hand(move: dict[str, Any]) -> str:
    return " ".join(["rolled back" if move["restores"] else "by hand", move["why"]]).rstrip()


def _where(run: dict[str, Any]) -> str:
    if run.get("at_work"):
        return ", ".join(run["at_work"])
    failed = run.get("failed")
    return f"{failed['stage']}: {failed['error']}" if failed else run.get("error", "")


def _print_status(result: dict[str, Any]) -> None:
    done = "{} of {}".format(*result["done"])
    typer.echo(f"{result['run']}: {result['state']}, {done} stages done, started {result['created_at']}")
    rows = [(stage["stage"], stage["state"], _detail(stage)) for stage in result["stages"]]
    print_table(("stage", "state", ""), rows)
    for lease in (lease for stage in result["stages"] for lease in stage.get("leases", [])):
        where = f"{lease['host']} pid {lease['pid']}, attempt {lease['attempt']}, heartbeat {lease['beat']}"
        typer.echo(f"{lease['prefix']}: {where} ({lease['heartbeat']}; its clock said {lease['written_by_its_clock']})")
    for retry in (stage["retry"] for stage in result["stages"] if "retry" in stage):
        typer.echo(f"go on with: {retry}")
    if failed := result["failed"]:
        typer.echo(
            f"failed last: {failed['stage']} at {failed['when']} on {failed['host']}, exit {failed['exit_code']}"
        )
        typer.echo(f"  {failed['error']} {failed['remedy']}")
        typer.echo(f"  go on with: {failed['retry']}")


def _detail(stage: dict[str, Any]) -> str:
    if stage["state"] == "done":
        return f"{stage['status']}, {stage['seconds']:.1f} s"
    parts = ["{} of {} partitions".format(*stage["partitions"])] if "partitions" in stage else []
    parts += ["{} of {}".format(*lease["progress"]) for lease in stage.get("leases", []) if lease["progress"]]
    return ", ".join(parts)


def _nearest(stage: dict[str, Any]) -> str:
    if stage["state"] == "HIT":
        return ""
    if not stage["nearest"]:
        return ": none of its kind is in the store"
    lost = f"; lost: {', '.join(stage['lost'])}" if stage["lost"] else ""
    return f": nearest is {stage['nearest']}{lost}"


def _print_differences(differences: list[dict[str, Any]], indent: str) -> None:
    for found in differences:
        typer.echo(f"{indent}{found['field']}: {_short(found['old'])} -> {_short(found['new'])}")
        _print_differences(found.get("because", []), indent + "    ")


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}..." if len(text) == 64 else text
