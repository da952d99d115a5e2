"""The training section as the settings that the training loop takes."""

from __future__ import annotations

from xmas_job.config import LoraConfig, TrainingConfig
from xmas_job.training.settings import LoraSettings, TrainingSettings


def to_training_settings(training: TrainingConfig, lora: LoraConfig | None) -> TrainingSettings:
    """The same values, the hardware's among them."""
    hardware = training.hardware
    return TrainingSettings(
        **training.model_dump(exclude={"hardware", "example_weights"}),
        dtype=hardware.dtype,
        device=hardware.device,
        lora=LoraSettings(**lora.model_dump()) if lora else None,
    )
