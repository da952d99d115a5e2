"""What a training is told: what changes its bytes, what does not, and when it has to stop.

Owns the three. Refuses to own where they come from (config, environment).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from xmas_job.training.resume import Layout, ResumeState, ResumeStates


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Shape of a LoRA adapter."""

    rank: int
    alpha: int
    dropout: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """Everything about a training that changes its bytes, model and data apart.

    Attributes:
        projector_learning_rate: of the projector; None for the common `learning_rate`.
        global_batch: examples an optimizer step, whatever the device holds at once.
        warmup_fraction: of the optimizer steps, linear from 0.
        max_length: tokens an example is cut to on the right, image tokens counted.
        grouping: "modality_length" puts examples of one modality and alike length into one step.
        max_unsupervised_fraction: of the examples seen; more without an answer token stop the training.
        dtype: "bfloat16" computes under autocast; trained weights stay in float32.
    """

    learning_rate: float
    global_batch: int
    per_device_batch: int
    seed: int
    num_epochs: int = 1
    projector_learning_rate: float | None = None
    warmup_fraction: float = 0.03
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    lr_schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    max_length: int = 2048
    grouping: Literal["none", "modality_length"] = "none"
    max_unsupervised_fraction: float = 1.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["cpu", "cuda"] = "cpu"
    lora: LoraSettings | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How a training runs here: none of it changes what is learned, beyond the last bits of sums.

    Attributes:
        layout: processes in all, and ZeRO stage; 0 is plain data parallelism.
        scratch: a folder that the processes of a machine share, for states on their way; None for one alone.
        num_loaders: processes a rank that prepare batches ahead.
        activation_checkpointing: compute activations again in the backward pass instead of keeping them.
        states: where states to go on from are kept; None keeps none.
        start: the state to go on from.
        save_seconds: how often one is kept; save_steps: also at multiples of this step.
        event_seconds: how often loss, rates and memory are told.
        should_stop: asked after every step; True keeps a state and ends the training.
        min_rate_fraction: of the usual tokens a second; less for `slow_seconds` ends the training.
    """

    layout: Layout = field(default_factory=Layout)
    scratch: Path | None = None
    num_loaders: int = 0
    activation_checkpointing: bool = False
    states: ResumeStates | None = None
    start: ResumeState | None = None
    save_seconds: float = float("inf")
    save_steps: int | None = None
    event_seconds: float = 5.0
    should_stop: Callable[[], bool] = lambda: False
    min_rate_fraction: float = 0.0
    slow_seconds: float = 900.0
