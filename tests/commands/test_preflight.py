"""The questions before a run, asked of real folders, files and processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.alerts.receiver import Receiver
from tests.s3_servers import silent_server
from tests.small_world import World, land
from xmas_job.commands import preflight
from xmas_job.environment import HASTE, Environment
from xmas_job.errors import TryAgainError, UsageError

SEGFAULT = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
ABSENT = "raise ModuleNotFoundError(\"No module named 'torch'\")"
NO_KERNEL = "raise RuntimeError('no kernel image is available for execution on the device')"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return land(tmp_path_factory.mktemp("preflight") / "world")


def ask(world: World, *arguments: str, **variables: str) -> tuple[int, dict[str, Any]]:
    """Exit code, and the checks by name."""
    done = world.call("preflight", "--json", *arguments, **variables)
    result = json.loads(done.stdout)
    checks = {check.pop("check"): check for check in result["checks"]}
    assert result["is_ok"] == all(check["is_ok"] for check in checks.values())
    assert all(bool(check["to_do"]) != check["is_ok"] for check in checks.values())
    return done.returncode, checks


def fake_torch(folder: Path, text: str) -> str:
    """A PYTHONPATH with a torch of its own."""
    folder.mkdir(exist_ok=True)
    (folder / "torch.py").write_text(text)
    return str(folder)


def test_machine_that_can_run_the_recipe_has_no_red_line(world: World) -> None:
    code, checks = ask(world, "--recipe", world.recipe())
    assert code == 0, checks
    assert "stages run on the CPU; torch" in checks["GPU"]["found"]
    assert checks["landing:demo"]["found"] == "demo@v1"
    assert "landed datasets: demo" in checks["store, to read"]["found"]
    assert [entry.key for entry in world.store.list("") if not entry.key.startswith("landing/")] == []


def test_what_a_recipe_lacks_is_named(world: World, tmp_path: Path) -> None:
    hardware = {"device": "cuda"}
    asked = {"datasets": ["demo@v7"], "select": {"method": "xmas"}, "extract": {"hardware": hardware}}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"proxy": {"model": "models/none", "training": {"hardware": hardware}}, **asked}))
    code, checks = ask(world, "--recipe", str(recipe))
    assert code == 2
    assert {name for name, check in checks.items() if not check["is_ok"]} == {
        "GPU",
        "landing:demo@v7",
        "model:proxy",
    }
    assert "device cuda for train_proxy, extract" in checks["GPU"]["found"]
    assert "'models/none' is no model folder" in checks["model:proxy"]["found"]


def test_one_red_line_hides_no_other(world: World, tmp_path: Path, small_disk: Path) -> None:
    (tmp_path / "file").touch()
    variables = {
        "XMAS_STORE_ROOT": str(tmp_path / "file"),
        "XMAS_SCRATCH": str(small_disk / "scratch"),
        "XMAS_ALERT_URLS": "pigeon://secret@loft",
        "PYTHONPATH": fake_torch(tmp_path / "torch", SEGFAULT),
    }
    code, checks = ask(world, **variables)
    assert code == 2
    assert {name for name, check in checks.items() if check["is_ok"]} <= {"/dev/shm", "store, to read"}
    assert checks["GPU"]["found"] == "importing torch ended with: SIGSEGV."
    assert "0.0 GiB free, and a run may want 1.0 GiB" in checks["scratch"]["found"]
    assert str(tmp_path / "file") in checks["store, to write"]["found"]
    assert "secret" not in checks["alerts"]["found"]


@pytest.mark.parametrize(("torch", "found", "to_do"), [(ABSENT, "No module", "image"), (NO_KERNEL, "kernel", "driver")])
def test_torch_that_does_not_work_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torch: str, found: str, to_do: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", fake_torch(tmp_path / "torch", torch))
    with pytest.raises(UsageError) as caught:
        preflight._try_kernels([])
    assert found in caught.value.message
    assert to_do in caught.value.remedy


def test_driver_without_a_gpu_for_torch_is_no_cpu_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.57.02\nGCC version: 9\n")
    monkeypatch.setattr(preflight, "DRIVER", driver)
    with pytest.raises(UsageError, match=r"torch sees no GPU: NVIDIA UNIX .* 470\.57\.02"):
        preflight._try_kernels([])


def test_small_shared_memory_is_refused(small_disk: Path) -> None:
    with pytest.raises(UsageError, match=r"has 0\.0 GiB, less than 0\.5 GiB"):
        preflight._look_at_shared_memory(small_disk)


def test_room_is_wanted_for_two_copies_of_the_largest_model(world: World, tmp_path: Path) -> None:
    for name, size in {"small": 1, "large": 2}.items():
        (tmp_path / name).mkdir()
        with (tmp_path / name / "model.safetensors").open("wb") as weights:
            weights.truncate(size * 2**30)  # a hole, no bytes
    models = [str(tmp_path / "small"), str(tmp_path / "large"), str(tmp_path / "absent"), "models/none"]
    found = preflight._look_at_scratch(tmp_path / "scratch", lambda: world.store, models)
    assert found.endswith("5.0 GiB wanted")


def test_bucket_that_is_silent_is_given_up_soon(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HASTE, "s3_timeout_seconds", 0.2)
    with silent_server() as silent:
        for name, value in silent.variables.items():
            monkeypatch.setenv(name, value)
        questions = dict(preflight._questions(Environment(store_root="s3://bucket/store"), world.config()))
        for question in ("store, to read", "landing:demo"):
            with pytest.raises(TryAgainError, match="the store cannot be reached"):
                questions[question]()
            assert silent.num_calls() == 2, "tries"


def test_trial_alert_reaches_receivers_or_says_which_refuse(world: World, receiver: Receiver) -> None:
    pytest.importorskip("apprise", reason="alerts come with the extra `airflow`: make airflow")
    code, checks = ask(world, "--tell", XMAS_ALERT_URLS=receiver.url)
    assert (code, checks["alerts, sent"]["is_ok"]) == (0, True)
    (alert,) = receiver.got
    assert (alert["title"], alert["type"]) == ("xmas_job: a trial, nothing has failed", "warning")
    receiver.status = 403
    code, checks = ask(world, "--tell", XMAS_ALERT_URLS=receiver.url)
    assert (code, checks["alerts"]["is_ok"]) == (2, True)
    assert "number 1 (json, HTTP 403)" in checks["alerts, sent"]["found"]
    assert ask(world, "--tell")[1]["alerts, sent"]["to_do"] == "Set XMAS_ALERT_URLS."


def test_table_says_no_and_what_to_do(world: World) -> None:
    pytest.importorskip("apprise", reason="alerts come with the extra `airflow`: make airflow")
    done = world.call("preflight", XMAS_ALERT_URLS="pigeon://loft", COLUMNS="200")
    assert done.returncode == 2
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("NO")]
    assert "alerts" in line
    assert "Correct XMAS_ALERT_URLS" in line
