"""The command line as its users meet it: what it prints, where, and its exit codes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import typer

from tests.small_world import World, land
from xmas_job import __version__, cli

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Data has landed, the run `r` is started, and its first stage is built."""
    landed = land(tmp_path_factory.mktemp("cli") / "world")
    assert landed.call("resolve", "--recipe", landed.recipe(), "--run-id", "r").returncode == 0
    assert landed.call("stage", "ingest:demo@v1", "--run", "r").returncode == 0
    return landed


def call_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """`main` in this process: exit code, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["xmas-job", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


# --- bad requests -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says", "remedy"),
    [
        (["--set", "clster.num_clusters=5"], "unknown key 'clster'", "Did you mean 'cluster'?"),
        (["--budget", "0"], "budget '0' selects nothing", "Correct it"),
        (["--budget", ""], "budget '' is not a percentage", "Correct it"),
        (["--budget", "-3"], "budget '-3' is not a percentage", "Correct it"),
        (["--budget", "101%"], "budget '101%' is above the pool", "Correct it"),
        (["--budget", "1.5"], "budget '1.5' is no whole number", "Correct it"),
        (["--method", "magic"], "unknown method 'magic'", "module:class"),
        (["--method", "el2n", "--set", "proxy=null"], "signal 'el2n', but the recipe has no proxy", "proxy.model"),
        (["--method", "ofa", "--set", "encoder=null"], "but the recipe has no dual encoder", "encoder.model"),
        (["--set", "cluster.num_clusters=[5"], "is not YAML", "Correct it"),
        (["--recipe", "dmo"], "there is no recipe 'dmo'", "demo"),
        (["--nothing"], "No such option", "See --help"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "run"])
def test_bad_request_is_one_line_its_remedy_and_code_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    arguments: list[str],
    says: str,
    remedy: str,
) -> None:
    code, out, err = call_here(monkeypatch, capsys, command, "--recipe", "demo", *arguments)
    assert (code, out) == (2, "")
    first, second = err.splitlines()
    assert first.startswith("error: ")
    assert says in first
    assert remedy in second


def test_wrong_variable_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("XMAS_WORKERS", "many")
    code, _, err = call_here(monkeypatch, capsys, "plan", "--recipe", "demo")
    assert code == 2
    assert "XMAS_WORKERS='many'" in err


def test_version_and_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call_here(monkeypatch, capsys, "--version")[:2] == (0, f"{__version__}\n")
    code, out, err = call_here(monkeypatch, capsys, "run", "--help")
    assert code == 0
    assert "--budget" in out
    assert err == ""


def test_bad_request_through_the_installed_command(world: World) -> None:
    done = world.call("run", "--recipe", world.recipe(), "--budget", "0")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[
        0
    ] == "error: recipe {}: publish.budget: budget '0' selects nothing; it must be above 0.".format(
        world.folder / "recipe.yaml"
    )
    assert "Traceback" not in done.stderr


# --- what launchers read ----------------------------------------------------------------------------------------------


def test_resolve_prints_the_stages_and_may_be_repeated(world: World) -> None:
    done = world.call("resolve", "--recipe", world.recipe(), "--run-id", "r")
    assert done.returncode == 0
    assert json.loads(done.stdout)["stages"][:2] == ["ingest:demo@v1", "pool"]


def test_stage_prints_one_json_line_and_logs_json_on_stderr(world: World) -> None:
    done = world.call("stage", "ingest:demo@v1", "--run", "r")
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["status"] == "hit"
    (event,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert (event["event"], event["run"], event["stage"]) == ("stage done", "r", "ingest:demo@v1")


def test_failing_stage_says_why_in_json_and_by_its_code(world: World) -> None:
    done = world.call("stage", "publish:subset", "--run", "r")
    assert done.returncode == 2
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "error": "the output of pool is not there.",
        "remedy": "Build it: xmas-job stage pool --run r",
        "exit_code": 2,
    }
    assert done.stderr.count("error: the output of pool is not there.") == 1


def test_json_is_all_there_is_on_stdout(world: World) -> None:
    planned = world.call("plan", "--recipe", world.recipe(), "--json")
    assert [stage["state"] for stage in json.loads(planned.stdout)["stages"]][:3] == ["HIT", "MISS", "UNKNOWN"]
    shown = world.call("show", "latest", "--json")
    assert json.loads(shown.stdout)["run"] == "r"
    assert (planned.stderr, shown.stderr) == ("", "")


@pytest.mark.parametrize("command", ["plan", "run"])
def test_selector_that_is_not_there_is_refused_before_anything_starts(world: World, command: str) -> None:
    (world.folder / "clip").mkdir(exist_ok=True)
    (world.folder / "clip/config.json").write_text("{}")
    asked = ["--method", "ofa", "--set", f"encoder.model={world.folder / 'clip'}", "--selector", "selectors/none"]
    done = world.call(command, "--recipe", world.recipe(), *asked)
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: 'selectors/none' is no trained selector folder" in done.stderr


def test_selector_that_its_method_does_not_read_is_refused(world: World) -> None:
    done = world.call("plan", "--recipe", world.recipe(), "--method", "random", "--selector", "selectors/mine")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--selector selectors/mine: method 'random' reads no selector." in done.stderr


def test_tables_are_for_people(world: World) -> None:
    planned = world.call("plan", "--recipe", world.recipe(), COLUMNS="200").stdout
    assert [line.split()[:2] for line in planned.splitlines()[1:3]] == [["ingest:demo@v1", "HIT"], ["pool", "MISS"]]
    shown = world.call("show").stdout
    assert "missing" in shown
    assert "unfinished" in shown


def test_full_disk_gives_code_75_and_the_remedy(small_disk: Path) -> None:
    world = land(small_disk)
    recipe = world.recipe()
    assert world.call("resolve", "--recipe", recipe, "--run-id", "r").returncode == 0
    with (small_disk / "filler").open("wb", buffering=0) as filler:
        while _has_room(filler.fileno()):
            pass
    for arguments in (["stage", "ingest:demo@v1", "--run", "r"], ["run", "--recipe", recipe, "--run-id", "s"]):
        done = world.call(*arguments)
        assert done.returncode == 75, done.stderr
        assert "error: no space left for" in done.stderr
        assert "Free some space, or point XMAS_STORE_ROOT and XMAS_SCRATCH elsewhere" in done.stderr
        assert "Traceback" not in done.stderr
    assert list(world.store.list("artifacts")) == []
    assert list((small_disk / "store/.unfinished").iterdir()) == []
    (small_disk / "filler").unlink()
    assert world.call("stage", "ingest:demo@v1", "--run", "r").returncode == 0


def _has_room(descriptor: int) -> bool:
    try:
        return os.write(descriptor, b"x" * 4096) > 0
    except OSError:
        return False


# --- its own documentation --------------------------------------------------------------------------------------------


def test_every_command_and_option_has_help() -> None:
    group = typer.main.get_command(cli.app)
    for command in (*group.commands.values(), *group.commands["demo"].commands.values()):  # type: ignore[attr-defined]
        assert command.help, command.name
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{command.name} {parameter.name}"


def test_readme_names_every_command() -> None:
    readme = (ROOT / "README.md").read_text()
    for name in typer.main.get_command(cli.app).commands:  # type: ignore[attr-defined]
        assert f"xmas-job {name}" in readme
