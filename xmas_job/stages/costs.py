"""What a stage was estimated to cost beside what it took: metrics of its record, and rows for those who read records.

Owns the names of these metrics. The formulas are in core.cost; `plan` makes its estimates before anything has run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from xmas_job.config import TrainingConfig
from xmas_job.core.cost import TOKENS_A_WORD, Load, extraction_flops, gpu_hours, training_flops
from xmas_job.data.examples import Example
from xmas_job.data.words import count_words
from xmas_job.environment import load_environment
from xmas_job.fingerprint import Json
from xmas_job.models.size import read_size
from xmas_job.runner import Run, Runner
from xmas_job.sections import Hardware
from xmas_job.stage_io import Metrics
from xmas_job.storage.store import Store

COSTS = ("estimated_gpu_hours", "gpu_hours", "estimated_pflops", "pflops")


def training_costs(
    folder: Path, examples: Sequence[Example], training: TrainingConfig, metrics: Metrics, *, is_lora: bool
) -> dict[str, Json]:
    """Metrics of a training with what it was estimated to take, of the device that it ran on, and its PFLOPs.

    Both PFLOPs are by one formula: estimated from words and pictures, as `plan` does, and from the tokens that went
    through the model. Hours are None for a device whose peak is not listed.
    """
    size = read_size(folder)
    if size is None:
        return dict(metrics)
    before = _load(examples, training.num_epochs)
    num_image_tokens, num_tokens = int(str(metrics["num_image_tokens"])), int(str(metrics["num_tokens"]))
    seen = Load(num_image_tokens / size.image_tokens, num_tokens - num_image_tokens)
    estimated = training_flops(size, before, is_lora=is_lora)
    return {
        **metrics,
        **_estimated(estimated, str(metrics["device"]), training.hardware),
        "pflops": training_flops(size, seen, is_lora=is_lora) / 1e15,
    }


def extraction_costs(
    folder: Path, examples: Sequence[Example], hardware: Hardware, device: str, num_checkpoints: int, seconds: float
) -> dict[str, Json]:
    """Of one partition: the estimate, and the hours that a GPU was held; these add up over partitions.

    Choice: no PFLOPs that were used: what examples on one image share is computed once, and nobody counts it.
    """
    size = read_size(folder)
    used: dict[str, Json] = {"gpu_hours": seconds / 3600 if hardware.device == "cuda" else 0.0}
    if size is None:
        return used
    flops = extraction_flops(size, _load(examples), num_checkpoints)
    found = _estimated(flops, device, hardware)
    return used | {name: value for name, value in found.items() if value is not None}


def costs_of(store: Store, run: Run) -> dict[str, dict[str, Json]]:
    """Stage -> seconds, and `COSTS` as far as its record has them, of every stage of the run that is built."""
    runner = Runner(store, load_environment(), run)
    records = {node: found.record for node in run.nodes if (found := runner.find(node)) is not None}
    return {
        node: {"seconds": record.provenance.get("seconds"), **shown_costs(record.metrics)}
        for node, record in records.items()
    }


def shown_costs(metrics: Mapping[str, Json]) -> dict[str, Json]:
    """`COSTS`, of metrics that have them."""
    return {name: metrics[name] for name in COSTS if name in metrics}


def _load(examples: Sequence[Example], num_epochs: int = 1) -> Load:
    num_words = int(count_words([example.turns for example in examples]).sum())
    num_images = sum(turn.num_images for example in examples for turn in example.turns)
    return Load(num_images * num_epochs, num_words * num_epochs * TOKENS_A_WORD)


def _estimated(flops: float, device: str, hardware: Hardware) -> dict[str, Json]:
    return {"estimated_pflops": flops / 1e15, "estimated_gpu_hours": gpu_hours(flops, device, hardware.dtype)}
