"""train_target: the target LVLM, LoRA-tuned on one arm's subset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from xmas_job.config import TargetConfig
from xmas_job.data.stored import image_loader, read_examples
from xmas_job.models.adapter import LVLM
from xmas_job.models.hardware import apply_hardware
from xmas_job.stage_io import Metrics, StageIO
from xmas_job.stages.costs import training_costs
from xmas_job.stages.settings import to_training_settings
from xmas_job.storage.schemas import SUBSET
from xmas_job.storage.tables import read_table
from xmas_job.training.launch import launch
from xmas_job.training.settings import Execution
from xmas_job.training.sft import train_lora


def run(section: TargetConfig, io: StageIO) -> Metrics:
    """Write `adapter/`: a sealed folder with a peft adapter in safetensors."""
    return launch(f"{__name__}:train", section, io, section.training)


def train(section: TargetConfig, io: StageIO, execution: Execution) -> Metrics:
    """The part of one process."""
    apply_hardware(section.training.hardware)
    subset = read_table(io.artifact("subset"), "subset.parquet", SUBSET, ["uid", "weight"])
    uids = subset["uid"].combine_chunks()
    examples, digests = read_examples(io.artifacts["ingest"], uids)
    folder = io.model_folder("model")
    lvlm = LVLM.load(folder, device=section.training.hardware.device)

    def keep(save: Callable[[Path], None]) -> None:
        with io.output.sealed_folder("adapter") as folder:
            save(folder)

    metrics = train_lora(
        lvlm,
        examples,
        image_loader(io.store, digests),
        to_training_settings(section.training, section.lora),
        on_adapter=keep,
        on_progress=io.progress,
        weights=_weights(subset) if section.training.example_weights else None,
        execution=execution,
    )
    return training_costs(folder, examples, section.training, metrics, is_lora=True)


def _weights(subset: pa.Table) -> dict[str, float]:
    return dict(zip(subset["uid"].to_pylist(), subset["weight"].to_pylist(), strict=True))
