"""Trainings of several processes by gloo: equal to one process, stopped, killed and failing."""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.processes import GLOBAL_BATCH, PER_DEVICE, ToySection, cases, losses_alone, trained_alone
from xmas_job.config import TrainingConfig
from xmas_job.environment import Environment
from xmas_job.errors import BadDataError, TryAgainError, UsageError, XmasError
from xmas_job.models.adapter import LVLM
from xmas_job.stage_io import StageIO
from xmas_job.storage.output import Output
from xmas_job.storage.roots import open_store
from xmas_job.training.launch import launch, layout_of
from xmas_job.training.resume import Layout

pytestmark = pytest.mark.launch
TRAINING = TrainingConfig(global_batch=GLOBAL_BATCH, per_device_batch=PER_DEVICE)


class Stage:
    """Attempts at one artifact, each by a launch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.number = 0
        self.progress: list[int] = []

    def launch(
        self,
        function: str,
        section: ToySection | None = None,
        on_progress: Callable[[int], None] = lambda _done: None,
        **variables: Any,
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Metrics, and sha256 by file."""
        self.number += 1
        scratch = self.folder / f"scratch-{self.number}"
        scratch.mkdir()
        environment = Environment(store_root=str(self.folder / "store"), scratch=scratch, **variables)
        store = open_store(environment.store_root)

        def progress(done: int, _total: int) -> None:
            self.progress.append(done)
            on_progress(done)

        output = Output(store, "artifacts/toy/00", f"attempts/{self.number}", scratch)
        io = StageIO(store=store, output=output, environment=environment, progress=progress)
        metrics = launch(f"tests.training.processes:{function}", section or ToySection(), io, TRAINING)
        return dict(metrics), {path: file.sha256 for path, file in output.files.items()}


@pytest.fixture(autouse=True)
def _deepspeed() -> None:
    if find_spec("deepspeed") is None:
        assert os.environ.get("CI") != "true", "CI must have deepspeed"
        pytest.skip("deepspeed is not installed")


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_every_stage_of_zero_learns_what_one_plain_process_learns(stage, num_processes):
    """Image-only, text-only and mixed; a quarter of the mixed pool is text-only, so ranks differ in what they hold."""
    found, _ = stage.launch("train_all", processes=num_processes, zero_stage=1)
    alone = functools.cache(losses_alone)
    for zero_stage, tuned, pool in cases(num_processes):
        assert found.pop(f"{zero_stage} {tuned} {pool}") == pytest.approx(alone(tuned, pool), abs=1e-4)
    assert not found


@pytest.mark.parametrize(("tuned", "zero_stage"), [("lora", 0), ("full", 3)])
def test_a_killed_process_is_named_with_its_last_lines_and_the_next_try_ends_with_the_same_bytes(
    stage, tmp_path, tuned, zero_stage
):
    variables: dict[str, Any] = {"processes": 2, "zero_stage": zero_stage}
    with pytest.raises(TryAgainError, match=r"(?s)process 1 .* ended by SIGKILL .*the last words of this process"):
        stage.launch("train", ToySection(tuned=tuned, disturbance="kill"), **variables, resume_steps=2)
    stage.progress.clear()
    _, files = stage.launch("train", ToySection(tuned=tuned, disturbance="kill"), **variables)
    assert stage.progress == [24, 32, 36]
    (tmp_path / "other").mkdir()
    _, undisturbed = Stage(tmp_path / "other").launch("train", ToySection(tuned=tuned), **variables)
    assert files == undisturbed
    if tuned == "full":
        whole = LVLM.load(tmp_path / "other/store/artifacts/toy/00/attempts/1/trained").model
        expected = dict(trained_alone().model.named_parameters())
        for name, weight in whole.named_parameters():
            if not name.endswith("k_proj.bias"):  # its gradient is rounding alone: it cancels in the softmax
                torch.testing.assert_close(weight, expected[name], atol=1e-3, rtol=0)


def test_sigterm_stops_all_processes_with_a_state(stage):
    def terminate(done: int) -> None:
        if done == 16:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TryAgainError, match="asked to stop"):
        stage.launch("train", on_progress=terminate, processes=2, zero_stage=2)
    with pytest.raises(UsageError, match="by 2 processes at ZeRO stage 2"):
        stage.launch("train", processes=1, zero_stage=0)
    stage.progress.clear()
    stage.launch("train", processes=2, zero_stage=2)
    assert stage.progress[0] > 16


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_plain_training_goes_on_with_another_number_of_processes(stage, before, after):
    def terminate(done: int) -> None:
        if done == 16:
            os.kill(os.getpid(), signal.SIGTERM)

    section = ToySection(tuned="full", at=1000)
    with pytest.raises(TryAgainError, match="asked to stop"):
        stage.launch("train", section, on_progress=terminate, processes=before, zero_stage=0)
    stage.progress.clear()
    metrics, _ = stage.launch("train", section, processes=after, zero_stage=0)
    assert 16 < stage.progress[0] <= 32
    assert (stage.progress[-1], metrics["num_steps"]) == (36, 5)
    found = dict(LVLM.load(stage.folder / "store/artifacts/toy/00/attempts/2/trained").model.named_parameters())
    for name, weight in trained_alone().model.named_parameters():
        if not name.endswith("k_proj.bias"):
            torch.testing.assert_close(found[name], weight, atol=1e-3, rtol=0)


def test_what_a_process_found_is_the_error(stage):
    with pytest.raises(BadDataError, match="This process found something") as caught:
        stage.launch("train", ToySection(disturbance="fail"), processes=2, zero_stage=0)
    assert caught.value.remedy == "Do something about it."


def test_a_defect_of_a_process_is_told_with_its_trace(stage):
    with pytest.raises(XmasError, match=r"process 1 .* failed with exit code 1.(?s:.*)nobody expected this"):
        stage.launch("train", ToySection(disturbance="defect"), processes=2, zero_stage=0)


def test_batches_that_do_not_divide_are_refused_before_any_process_starts(stage):
    with pytest.raises(UsageError, match="not a multiple of 6"):
        stage.launch("train", processes=3)


_MACHINE = """
import json, pathlib, sys
from tests.training.test_launch import Stage
from xmas_job.errors import NothingToDoError
folder, rank, port = sys.argv[1:]
stage = Stage(pathlib.Path(folder))
if rank == "0":
    stage.number = 4  # the other machine does not know which attempt this is
try:
    _, files = stage.launch("train", num_nodes=2, node_rank=int(rank), rendezvous=f"127.0.0.1:{port}", zero_stage=2)
except NothingToDoError:
    files = None
print(json.dumps(files))
"""


def test_two_machines_train_as_two_processes_of_one(stage, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    machines, folder = [], tmp_path / "shared"
    folder.mkdir()
    for rank in ("0", "1"):
        command = [sys.executable, "-c", _MACHINE, str(folder), rank, port]
        machines.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    printed = [machine.communicate(timeout=900)[0].splitlines()[-1] for machine in machines]
    assert printed[1] == "null"
    assert [path.name for path in (folder / "store/artifacts/toy/00/attempts").iterdir()] == ["5"]
    _, files = stage.launch("train", processes=2, zero_stage=2)
    assert json.loads(printed[0]) == files


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Layout(1, 0)),
        ({"processes": 4}, Layout(4, 2)),
        ({"processes": 4, "num_nodes": 2, "zero_stage": 3}, Layout(8, 3)),
        ({"processes": 2, "zero_stage": 0}, Layout(2, 0)),
    ],
)
def test_the_layout_follows_from_processes_and_machines(variables, expected):
    assert layout_of(Environment(**variables), TRAINING) == expected
