"""Interrupted trainings: what the next attempt goes on from, and that it ends with the same bytes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.tiny_models import tiny_llava
from tests.training.toy import files_of, load_image, mixed_pool, settings, train_toy_proxy, train_toy_target
from xmas_job.errors import BadDataError, TryAgainError, UsageError
from xmas_job.storage.local import LocalStore
from xmas_job.storage.output import Output
from xmas_job.storage.sealed import MANIFEST
from xmas_job.training.launch import stop_requests
from xmas_job.training.loop import PROGRESS
from xmas_job.training.resume import Layout, ResumeStates
from xmas_job.training.settings import Execution, LoraSettings
from xmas_job.training.sft import train_lora

ADDRESS = "artifacts/train_target/00"


class Attempts:
    """Attempts at one artifact, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = LocalStore(folder / "store")
        self.number = 0

    def next(self, num_kept: int = 2) -> ResumeStates:
        self.number += 1
        scratch = self.folder / f"scratch-{self.number}"
        scratch.mkdir()
        self.output = Output(self.store, ADDRESS, f"attempts/{self.number}", scratch)
        return ResumeStates(self.store, self.output, num_kept)

    def states(self) -> list[str]:
        keys = [entry.key for entry in self.store.list(ADDRESS) if entry.key.endswith(MANIFEST)]
        return [key.removeprefix(f"{ADDRESS}/attempts/").removesuffix(f"/{MANIFEST}") for key in keys]

    def execution(self, save_steps: int | None = None, **changes: Any) -> Execution:
        states = self.next()
        return Execution(states=states, start=states.newest(Layout()), save_steps=save_steps, **changes)


@pytest.fixture
def attempts(tmp_path: Path) -> Attempts:
    return Attempts(tmp_path)


class Crash(Exception):  # noqa: N818 (it is none)
    """As a kill: the training gets no chance to tidy up."""


def crash_at(num_seen: int) -> Any:
    def on_progress(done: int, _total: int) -> None:
        if done >= num_seen:
            raise Crash

    return on_progress


def train(execution: Execution, folder: Path, on_progress: Any = lambda _done, _total: None) -> dict[str, Any]:
    """64 examples in 8 steps; dropout draws random numbers at every one of them."""
    return train_lora(
        tiny_llava(),
        mixed_pool(64),
        load_image,
        settings(lora=LoraSettings(rank=4, alpha=8, dropout=0.1), projector_learning_rate=1e-3),
        on_adapter=lambda save: save(folder),
        on_progress=on_progress,
        execution=execution,
    )


def test_a_killed_lora_training_goes_on_from_its_last_state_to_the_same_bytes(attempts, tmp_path):
    undisturbed = train_toy_target(tmp_path / "undisturbed")
    with pytest.raises(Crash):
        train(attempts.execution(save_steps=3), tmp_path / "a", crash_at(40))
    assert attempts.states() == ["1/resume/000000003"]
    progress: list[int] = []
    metrics = train(attempts.execution(), tmp_path / "b", lambda done, _total: progress.append(done))
    assert progress == [32, 40, 48, 56, 64]  # nothing is done twice beyond the state
    assert files_of(tmp_path / "b") == files_of(undisturbed.directory)
    same = {name: value for name, value in undisturbed.metrics.items() if "second" not in name}
    assert {name: metrics[name] for name in same} == same


def test_a_full_training_goes_on_to_the_same_checkpoints(attempts, tmp_path):
    undisturbed = train_toy_proxy(tmp_path / "undisturbed")
    with pytest.raises(Crash):
        train_toy_proxy(tmp_path / "again", attempts.execution(save_steps=3), crash_at(32))
    second = train_toy_proxy(tmp_path / "again", attempts.execution())
    assert [index for index, _, _ in second.checkpoints] == [3]  # 0, 1 and 2 were saved before the state
    assert files_of(tmp_path / "again") == files_of(undisturbed.directory)


def test_seconds_are_those_of_all_attempts(attempts, tmp_path):
    with pytest.raises(Crash):
        train(attempts.execution(save_steps=6), tmp_path / "a", crash_at(56))
    execution = attempts.execution()
    noted = execution.start.folder / PROGRESS
    noted.write_text(json.dumps({**json.loads(noted.read_bytes()), "seconds": 1000.0}))
    metrics = train(execution, tmp_path / "b")
    assert 1000 < metrics["seconds"] < 2000
    assert metrics["examples_per_second"] == pytest.approx(64 / metrics["seconds"])


def test_a_state_is_kept_once_the_time_has_come(attempts, tmp_path):
    with pytest.raises(Crash):
        train(attempts.execution(save_seconds=0.0), tmp_path / "a", crash_at(24))
    assert attempts.states() == ["1/resume/000000001", "1/resume/000000002"]


def test_a_stop_keeps_one_state_and_not_another_at_the_end_of_the_epoch(attempts, tmp_path):
    with capture_logs() as told, pytest.raises(TryAgainError):
        train(attempts.execution(should_stop=lambda: True), tmp_path / "a")
    assert [event["step"] for event in told if event["event"] == "state kept"] == [1]


def test_the_state_of_another_training_is_refused(attempts, tmp_path):
    with pytest.raises(TryAgainError):
        train(attempts.execution(should_stop=lambda: True), tmp_path / "a")
    with pytest.raises(BadDataError, match=r"state of another model.* Delete it"):
        train_toy_proxy(tmp_path / "b", attempts.execution())


def test_the_furthest_state_counts_though_a_slower_attempt_is_newer(attempts):
    """An owner that was only asleep has gone on beyond the one that took over."""
    first, second = attempts.next(), attempts.next()
    second.save({}, step=3, layout=Layout())
    first.save({}, step=6, layout=Layout())
    assert attempts.next().newest(Layout()).step == 6


def test_the_last_step_leaves_no_state_of_its_own(attempts, tmp_path):
    train(attempts.execution(save_steps=4), tmp_path / "a")
    assert attempts.states() == ["1/resume/000000004"]


def test_a_stop_at_the_last_step_comes_too_late(attempts, tmp_path):
    train(attempts.execution(should_stop=iter([*[False] * 7, True]).__next__), tmp_path / "a")
    assert (tmp_path / "a" / "adapter_model.safetensors").is_file()


def test_sigterm_keeps_a_state_and_asks_to_try_again(attempts, tmp_path):
    def terminate(done: int, _total: int) -> None:
        if done == 24:
            os.kill(os.getpid(), signal.SIGTERM)

    with stop_requests() as should_stop, pytest.raises(TryAgainError, match=r"after optimizer step 3.*same command"):
        train(attempts.execution(should_stop=should_stop), tmp_path / "a", terminate)
    assert attempts.states() == ["1/resume/000000003"]
    train(attempts.execution(), tmp_path / "b")
    assert files_of(tmp_path / "b") == files_of(train_toy_target(tmp_path / "undisturbed").directory)


def test_a_state_that_was_never_finished_or_has_changed_is_passed_over(attempts, tmp_path):
    with pytest.raises(Crash):
        train(attempts.execution(save_steps=1), tmp_path / "a", crash_at(32))
    assert attempts.states() == ["1/resume/000000002", "1/resume/000000003"]
    folder = attempts.folder / "store" / ADDRESS / "attempts/1/resume"
    weights = folder / "000000003" / "optimizer.pt"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert attempts.next().newest(Layout()).step == 2
    (folder / "000000002" / MANIFEST).unlink()
    assert attempts.next().newest(Layout()) is None


def test_a_bounded_number_is_kept_and_a_commit_leaves_none(attempts, tmp_path):
    with pytest.raises(Crash):
        train(attempts.execution(save_steps=1), tmp_path / "a", crash_at(32))
    with pytest.raises(Crash):
        train(attempts.execution(save_steps=1), tmp_path / "b", crash_at(56))
    assert attempts.states() == ["2/resume/000000005", "2/resume/000000006"]
    ResumeStates(attempts.store, attempts.output).forget()
    assert not list(attempts.store.list(ADDRESS))


def test_what_was_written_before_the_state_is_taken_over_and_must_still_be_there(attempts, tmp_path):
    states = attempts.next()
    attempts.output.data("checkpoint-0001/weights", b"weights")
    states.save({}, step=1, layout=Layout())
    found = attempts.next().newest(Layout())
    assert [(file.path, file.location) for file in found.finished] == [
        ("checkpoint-0001/weights", "attempts/1/checkpoint-0001/weights")
    ]
    attempts.store.put(f"{ADDRESS}/attempts/1/checkpoint-0001/weights", b"weig")
    assert attempts.next().newest(Layout()) is None
    attempts.store.delete(f"{ADDRESS}/attempts/1/checkpoint-0001/weights")
    assert attempts.next().newest(Layout()) is None


@pytest.mark.parametrize(
    ("saved", "wanted", "fits"),
    [
        (Layout(1, 0), Layout(4, 0), True),
        (Layout(4, 0), Layout(1, 0), True),
        (Layout(2, 2), Layout(2, 2), True),
        (Layout(2, 2), Layout(4, 2), False),
        (Layout(2, 2), Layout(2, 3), False),
        (Layout(1, 0), Layout(2, 2), False),
    ],
)
def test_a_sharded_state_fits_its_own_number_of_processes_alone(attempts, saved, wanted, fits):
    attempts.next().save({}, step=1, layout=saved)
    if fits:
        assert attempts.next().newest(wanted).step == 1
        return
    with pytest.raises(UsageError, match=rf"by {saved.num_processes} processes at ZeRO stage {saved.zero_stage}"):
        attempts.next().newest(wanted)


def test_a_full_disk_while_a_state_is_saved_leaves_the_one_before(tmp_path, small_disk):
    attempts = Attempts(tmp_path)
    with pytest.raises(Crash):
        train(attempts.execution(save_steps=2), tmp_path / "a", crash_at(24))
    (small_disk / "others").write_bytes(bytes(900_000))
    with pytest.raises(OSError, match="No space left"):
        train(attempts.execution(save_steps=2, scratch=small_disk / "trainer"), tmp_path / "b")
    assert attempts.states() == ["1/resume/000000002"]
