"""Toy trainings for processes that a launch starts; found by name there."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from dataclasses import replace
from typing import Any

from accelerate.state import AcceleratorState
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from tests.tiny_models import tiny_llava
from tests.training.toy import image_pool, load_image, mixed_pool, settings, text_pool
from xmas_job.errors import BadDataError
from xmas_job.models.adapter import LVLM
from xmas_job.sections import Section
from xmas_job.stage_io import Metrics, StageIO
from xmas_job.training.resume import Layout
from xmas_job.training.settings import Execution, LoraSettings
from xmas_job.training.sft import train_full, train_lora

GLOBAL_BATCH, PER_DEVICE = 8, 2
POOLS = {"image": image_pool, "text": text_pool, "mixed": mixed_pool}


class ToySection(Section):
    """What to train, and what is to happen to which process."""

    tuned: str = "lora"
    disturbance: str = ""
    at: int = 24
    victim: int = 1


def train(section: ToySection, io: StageIO, execution: Execution) -> Metrics:
    """36 mixed examples: 5 steps, the last of 4."""

    def on_progress(done: int, total: int) -> None:
        io.progress(done, total)
        if done >= section.at and int(os.environ["RANK"]) == section.victim and execution.start is None:
            if section.disturbance == "kill":
                print("the last words of this process", file=sys.stderr, flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
            if section.disturbance == "defect":
                raise ZeroDivisionError("nobody expected this")
            if section.disturbance == "fail":
                raise BadDataError("This process found something.", "Do something about it.")

    return one(section.tuned, "mixed", io, execution, on_progress)


def one(
    tuned: str, pool: str, io: StageIO | None, execution: Execution, on_progress: Any, lvlm: LVLM | None = None
) -> dict[str, Any]:
    """One training from the same weights."""
    lvlm, examples = lvlm or tiny_llava(), POOLS[pool](36)
    toy = settings(
        global_batch=GLOBAL_BATCH,
        per_device_batch=PER_DEVICE,
        lora=LoraSettings(rank=4, alpha=8, dropout=0.0) if tuned == "lora" else None,
    )

    def write(save: Any) -> None:
        if io is not None:
            with io.output.sealed_folder("trained") as folder:
                save(folder)

    if tuned == "lora":
        return train_lora(
            lvlm, examples, load_image, toy, on_adapter=write, on_progress=on_progress, execution=execution
        )
    return train_full(
        lvlm,
        examples,
        load_image,
        toy,
        checkpoint_steps=[2, 5],
        on_checkpoint=lambda index, _step, _seen, save: write(save) if index == 2 else None,
        on_progress=on_progress,
        execution=execution,
    )


def cases(num_processes: int) -> list[tuple[int, str, str]]:
    """ZeRO stage (0: plain, of several), full or LoRA, pool."""
    first = 0 if num_processes > 1 else 1
    mixed = list(itertools.product(range(first, 4), ("full", "lora"), ["mixed"]))
    others = itertools.product((0, 3), ["lora"], ("image", "text")) if num_processes > 1 else []
    return [*mixed, *others]


def train_all(_section: Section, io: StageIO, execution: Execution) -> Metrics:
    """Every case: first, mean and last loss."""
    found = {}
    for stage, tuned, pool in cases(execution.layout.num_processes):
        layout = Layout(execution.layout.num_processes, stage)
        quiet = replace(execution, layout=layout, states=None, start=None)
        metrics = one(tuned, pool, None, quiet, lambda _done, _total: None)
        found[f"{stage} {tuned} {pool}"] = [metrics["loss_first"], metrics["loss_mean"], metrics["loss_last"]]
        AcceleratorState._reset_state()
        unset_hf_deepspeed_config()
    return found


def losses_alone(tuned: str, pool: str) -> list[float]:
    """The same losses, in this process."""
    metrics = one(tuned, pool, None, Execution(), lambda _done, _total: None)
    return [metrics["loss_first"], metrics["loss_mean"], metrics["loss_last"]]


def trained_alone() -> LVLM:
    """The model of a full training on the mixed pool, in this process."""
    lvlm = tiny_llava()
    one("full", "mixed", None, Execution(), lambda _done, _total: None, lvlm)
    return lvlm
