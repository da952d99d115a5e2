"""The one training loop, on transformers' Trainer: steps, watchdogs, moments of saving, states to go on from.

Owns when things happen. Refuses to own what is trained and in which order (sft), what broken means (watch), where
states lie (resume) and how several processes come about (launch).
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from xmas_job.errors import TryAgainError
from xmas_job.logs import get_logger
from xmas_job.models.adapter import LVLM
from xmas_job.training.arguments import check_device, training_arguments
from xmas_job.training.batches import Collate, ExamplesInOrder, answer_loss, image_filler
from xmas_job.training.settings import Execution, TrainingSettings
from xmas_job.training.speed import Speed
from xmas_job.training.trainer import LoopTrainer
from xmas_job.training.watch import Seen, Watchdogs

logger = get_logger(__name__)

PROGRESS = "progress.json"
"""In a state: what was seen up to there."""

Weights = Callable[[], dict[str, Tensor] | None]
"""All weights, gathered from all processes that hold a part; None if each process has all. All processes call it."""
OnStep = Callable[[int, int, Weights], None]  # (optimizer step, examples seen, weights); called by every process


@dataclass(slots=True)
class Progress:
    """What a training has seen, in all its attempts."""

    losses: list[float] = field(default_factory=list)
    counts: Seen = field(default_factory=Seen)
    seconds: float = 0.0

    @classmethod
    def of(cls, execution: Execution) -> Progress:
        """As remembered in the state to go on from."""
        if execution.start is None:
            return cls()
        raw = json.loads((execution.start.folder / PROGRESS).read_bytes())
        return cls(raw["losses"], Seen(**raw["counts"]), raw["seconds"])


class TrainingLoop:
    """One training of `model`, which is `lvlm`'s own or wraps it."""

    def __init__(
        self,
        lvlm: LVLM,
        model: nn.Module,
        feed: ExamplesInOrder,
        settings: TrainingSettings,
        execution: Execution,
        make_optimizer: Callable[[], torch.optim.Optimizer],
    ) -> None:
        check_device(model, settings)
        self.lvlm = lvlm
        self.model = model
        self.feed = feed
        self.settings = settings
        self.execution = execution
        self.make_optimizer = make_optimizer
        self.progress = Progress.of(execution)

    def run(self, on_step: OnStep) -> dict[str, Any]:
        """Run the optimizer over the feed; `on_step` follows step 0 and every healthy step.

        Returns:
            loss_first and loss_last (means over the first and the last tenth of the steps), loss_mean (over the
            steps), num_steps, num_examples (seen, epochs counted), num_tokens, num_image_tokens, num_supervised_tokens,
            num_unsupervised_examples, seconds (of all attempts), examples_per_second, tokens_per_second, device,
            gpu_hours (0 without one), mfu and peak_memory_gb (None where unknown).

        Raises:
            BadDataError: no example has an answer token, or a watchdog barked.
            TryAgainError: it was asked to stop; a state was kept, if there is a place for them.
        """
        begin = time.monotonic()
        self.feed.require_an_answer()
        layout = self.execution.layout
        if not layout.is_alone:
            self.feed.padded_to = self.settings.per_device_batch * layout.num_processes
        filler = None if layout.is_alone else image_filler(self.lvlm)
        with self._scratch() as scratch:
            trainer = self._trainer(scratch, Collate(self.lvlm, filler, self.feed.weights))
            watch = _Watch(self, trainer, on_step, begin)
            trainer.add_callback(watch)
            trainer.keep_state = watch.keep_state
            start = self.execution.start
            trainer.train(resume_from_checkpoint=str(start.folder) if start else None)
        if watch.has_stopped:
            raise TryAgainError(
                f"The training was asked to stop, and did after optimizer step {trainer.state.global_step}.",
                "Give the same command again: it goes on from there.",
            )
        self.model.eval()
        watch.note()
        watch.dogs.check_examples(self.progress.counts, at_end=True)
        return self._metrics(watch.speed)

    def _scratch(self) -> AbstractContextManager[str]:
        """Each process leaves its part of a state there."""
        assert self.execution.layout.is_alone or self.execution.scratch is not None
        return TemporaryDirectory() if self.execution.scratch is None else nullcontext(str(self.execution.scratch))

    def _metrics(self, speed: Speed) -> dict[str, Any]:
        progress = self.progress
        tenth = math.ceil(len(progress.losses) / 10)
        return {
            "loss_first": _mean(progress.losses[:tenth]),
            "loss_last": _mean(progress.losses[-tenth:]),
            "loss_mean": _mean(progress.losses),
            "num_steps": len(progress.losses),
            "num_examples": self.feed.num_examples,
            "num_tokens": progress.counts.num_tokens,
            "num_image_tokens": progress.counts.num_image_tokens,
            "num_supervised_tokens": progress.counts.num_supervised_tokens,
            "num_unsupervised_examples": progress.counts.num_unsupervised,
            "seconds": progress.seconds,
            "examples_per_second": self.feed.num_examples / progress.seconds,
            "num_processes": self.execution.layout.num_processes,
            **speed.overall(progress.counts.num_tokens, progress.seconds),
        }

    def _trainer(self, scratch: str, collate: Collate) -> LoopTrainer:
        configuration = self.lvlm.model.config
        own_values = dict(vars(configuration))
        trainer: LoopTrainer = LoopTrainer(
            model=self.model,
            args=training_arguments(self.settings, self.execution, scratch),
            train_dataset=self.feed,
            data_collator=collate,
            compute_loss_func=lambda outputs, labels, num_items_in_batch: answer_loss(
                outputs, labels, num_items_in_batch, trainer.example_weights
            ),
        )
        trainer.make_optimizer = self.make_optimizer
        trainer.remove_callback(PrinterCallback)  # added whenever disable_tqdm is set
        if "use_cache" not in own_values:  # transformers 5.23 writes it there, and checkpoints would keep it
            del configuration.use_cache
        else:
            configuration.use_cache = own_values["use_cache"]
        return trainer


class _Watch(TrainerCallback):  # type: ignore[misc]
    """After every optimizer step: watchdogs, `on_step`, events, and whether a state is kept.

    It hangs on `on_log`, the one event that follows a step and knows its loss: nothing is ever saved from a step that
    was not finite.
    """

    def __init__(self, loop: TrainingLoop, trainer: LoopTrainer, on_step: OnStep, begin: float) -> None:
        execution, settings = loop.execution, loop.settings
        self.has_stopped = False
        self.dogs = Watchdogs(settings.max_unsupervised_fraction, execution.min_rate_fraction, execution.slow_seconds)
        self.speed = Speed(loop.lvlm, settings, execution)
        self._loop = loop
        self._trainer = trainer
        self._on_step = on_step
        self._begin = begin - loop.progress.seconds
        self._last_saved = self._last_told = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Step 0: nothing is trained yet."""
        if state.global_step == 0:
            self._on_step(0, 0, self._trainer.weights)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float], **kwargs: Any) -> None:  # noqa: ARG002
        """After a step; the log at the end of training has no `loss`."""
        if "loss" not in logs:
            return
        step, progress, execution = state.global_step, self._loop.progress, self._loop.execution
        self.dogs.check_step(step, logs["loss"], logs["grad_norm"])
        progress.losses.append(logs["loss"])
        self._on_step(
            step, min(step * self._loop.settings.global_batch, self._loop.feed.num_examples), self._trainer.weights
        )
        now = time.monotonic()
        is_last = step >= state.max_steps
        stop, save, tell = self._trainer.agreed(
            execution.should_stop(),
            now - self._last_saved >= execution.save_seconds or _is_multiple(step, execution.save_steps),
            now - self._last_told >= execution.event_seconds,
        )
        if tell:
            self._last_told = now
            self.note()
            self.dogs.check_examples(progress.counts)
            self.dogs.check_rate(now, progress.counts.num_tokens)
            self._tell(step, logs)
        self.has_stopped = stop and not is_last
        control.should_training_stop = control.should_training_stop or self.has_stopped
        control.should_save = execution.states is not None and (save or stop) and not is_last

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """The next one is due `save_seconds` from here."""
        self._last_saved = time.monotonic()

    def note(self) -> None:
        """Bring the counts up to date. Called by all processes."""
        progress, new = self._loop.progress, self._trainer.take_counts()
        now, before = asdict(new), asdict(progress.counts)
        progress.counts = Seen(**{name: before[name] + now[name] for name in now})
        progress.seconds = time.monotonic() - self._begin

    def keep_state(self, folder: Path) -> None:
        """Move what the Trainer saved to where another machine finds it. Called by all processes."""
        execution, args = self._loop.execution, self._trainer.args
        assert execution.states is not None
        self.note()
        step = self._trainer.state.global_step
        if args.should_save:
            (folder / PROGRESS).write_text(json.dumps(asdict(self._loop.progress)), encoding="utf-8")
        self._trainer.accelerator.wait_for_everyone()
        files = execution.states.upload(folder, step) if args.local_process_index == 0 else {}
        every = gather_object([files])  # machines have disks of their own
        if args.should_save:
            execution.states.save({name: file for one in every for name, file in one.items()}, step, execution.layout)
            logger.info("state kept", step=step)
        if args.local_process_index == 0:
            shutil.rmtree(folder, ignore_errors=True)
        self._trainer.accelerator.wait_for_everyone()

    def _tell(self, step: int, logs: Mapping[str, float]) -> None:
        progress = self._loop.progress
        if self._trainer.args.should_save:
            logger.info(
                "training",
                step=step,
                loss=round(logs["loss"], 4),
                learning_rate=logs["learning_rate"],
                gradient_norm=round(logs["grad_norm"], 4),
                **self.speed.since_last(progress.counts.num_tokens, progress.seconds),
            )


def _is_multiple(step: int, interval: int | None) -> bool:
    return interval is not None and step % interval == 0


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)
