"""train_proxy: one full fine-tune of the proxy over the pool, kept at T checkpoints and before the first step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from xmas_job.config import ProxyConfig
from xmas_job.data.stored import image_loader, read_examples
from xmas_job.fingerprint import Json
from xmas_job.models.adapter import LVLM
from xmas_job.models.hardware import apply_hardware
from xmas_job.stage_io import Metrics, StageIO
from xmas_job.stages.settings import to_training_settings
from xmas_job.storage.schemas import POOL
from xmas_job.storage.tables import read_table
from xmas_job.training.schedule import checkpoint_positions
from xmas_job.training.sft import train_full


def run(section: ProxyConfig, io: StageIO) -> Metrics:
    """Write `checkpoint-<t>/` for t = 0..T (transformers folders) and `positions.json`."""
    apply_hardware(section.training.hardware)
    uids = read_table(io.artifact("pool"), "pool.parquet", POOL, ["uid"])["uid"].combine_chunks()
    examples, digests = read_examples(io.artifacts["ingest"], uids)
    num_seen = len(examples) * section.training.num_epochs
    steps = checkpoint_positions(num_seen, section.num_checkpoints, section.training.global_batch)
    lvlm = LVLM.load(io.model_folder("model"), device=section.training.hardware.device)
    positions: list[Json] = []

    def keep(index: int, step: int, examples_seen: int, save: Callable[[Path], None]) -> None:
        positions.append({"checkpoint": index, "global_step": step, "fraction": examples_seen / num_seen})
        with io.output.folder(f"checkpoint-{index:04d}") as folder:
            save(folder)

    metrics = train_full(
        lvlm,
        examples,
        image_loader(io.store, digests),
        to_training_settings(section.training, lora=None),
        checkpoint_steps=steps,
        on_checkpoint=keep,
        on_progress=io.progress,
    )
    io.output.json("positions.json", positions)
    return metrics
