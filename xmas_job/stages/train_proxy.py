"""train_proxy: one full fine-tune of the proxy over the pool, kept at T checkpoints and before the first step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from xmas_job.config import ProxyConfig
from xmas_job.data.stored import image_loader, read_examples
from xmas_job.models.adapter import LVLM
from xmas_job.models.hardware import apply_hardware
from xmas_job.stage_io import Metrics, StageIO
from xmas_job.stages.costs import training_costs
from xmas_job.stages.settings import to_training_settings
from xmas_job.storage.schemas import POOL
from xmas_job.storage.tables import read_table
from xmas_job.training.launch import launch
from xmas_job.training.schedule import checkpoint_positions
from xmas_job.training.settings import Execution
from xmas_job.training.sft import train_full


def run(section: ProxyConfig, io: StageIO) -> Metrics:
    """Write `checkpoint-<t>/` for t = 0..T (sealed transformers folders) and `positions.json`."""
    metrics = launch(f"{__name__}:train", section, io, section.training)
    num_seen = int(str(metrics["num_examples"]))
    steps = checkpoint_positions(num_seen, section.num_checkpoints, section.training.global_batch)
    seen = [min(step * section.training.global_batch, num_seen) for step in [0, *steps]]
    io.output.json(
        "positions.json",
        [
            {"checkpoint": index, "global_step": step, "fraction": seen[index] / num_seen}
            for index, step in enumerate([0, *steps])
        ],
    )
    return metrics


def train(section: ProxyConfig, io: StageIO, execution: Execution) -> Metrics:
    """The part of one process."""
    apply_hardware(section.training.hardware)
    uids = read_table(io.artifact("pool"), "pool.parquet", POOL, ["uid"])["uid"].combine_chunks()
    examples, digests = read_examples(io.artifacts["ingest"], uids)
    num_seen = len(examples) * section.training.num_epochs
    steps = checkpoint_positions(num_seen, section.num_checkpoints, section.training.global_batch)
    folder = io.model_folder("model")
    lvlm = LVLM.load(folder, device=section.training.hardware.device)

    def keep(index: int, _step: int, _examples_seen: int, save: Callable[[Path], None]) -> None:
        with io.output.sealed_folder(f"checkpoint-{index:04d}") as folder:
            save(folder)

    metrics = train_full(
        lvlm,
        examples,
        image_loader(io.store, digests),
        to_training_settings(section.training, lora=None),
        checkpoint_steps=steps,
        on_checkpoint=keep,
        on_progress=io.progress,
        execution=execution,
    )
    return training_costs(folder, examples, section.training, metrics, is_lora=False)
