"""Supervised fine-tuning of a vision-language model: one loop for proxy (full) and target (LoRA).

Owns what is trained, in which order, and what is written of it. Refuses to own the loop itself (loop), batches and the
loss (batches), and where checkpoints go (the caller's `on_checkpoint`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

from xmas_job.data.examples import Example
from xmas_job.errors import BadDataError, UsageError
from xmas_job.models.adapter import LVLM
from xmas_job.models.saving import os_errors
from xmas_job.training.batches import ExamplesInOrder, LoadImage
from xmas_job.training.loop import TrainingLoop, Weights
from xmas_job.training.schedule import grouped_order, optimizer_steps, training_order
from xmas_job.training.settings import Execution, TrainingSettings

# (index, optimizer step, examples seen, save): index 0 is the model before training; `save` writes a directory.
OnCheckpoint = Callable[[int, int, int, Callable[[Path], None]], None]
OnAdapter = Callable[[Callable[[Path], None]], None]
OnProgress = Callable[[int, int], None]  # (examples seen, examples in all)

ALONE = Execution()


def train_full(
    lvlm: LVLM,
    examples: Sequence[Example],
    load_image: LoadImage,
    settings: TrainingSettings,
    *,
    checkpoint_steps: Sequence[int],
    on_checkpoint: OnCheckpoint,
    on_progress: OnProgress,
    execution: Execution = ALONE,
) -> dict[str, Any]:
    """Train language model and projector of `lvlm` in place, the vision tower frozen.

    `checkpoint_steps` are rising optimizer steps (T,) as from `checkpoint_positions`; `on_checkpoint` is called with
    index 0 before the first step and with 1..T after these. Of several processes, the first one alone calls it.

    Returns:
        The metrics of `TrainingLoop.run` and `checkpoint_steps`.

    Raises:
        BadDataError: no example has an answer token, or a watchdog barked.
        UsageError: batch sizes that do not divide, a checkpoint past the end, weights not in float32.
        TryAgainError: it was asked to stop.
    """
    num_seen = settings.num_epochs * len(examples)
    num_steps = optimizer_steps(num_seen, settings.global_batch)
    if max(checkpoint_steps) > num_steps:
        raise UsageError(
            f"A checkpoint at optimizer step {max(checkpoint_steps)} lies past the end at {num_steps}.",
            "Take the steps from checkpoint_positions.",
        )
    index_by_step = {step: index for index, step in enumerate([0, *checkpoint_steps])}

    def on_step(step: int, examples_seen: int, weights: Weights) -> None:
        on_progress(examples_seen, num_seen)
        if step in index_by_step:
            _on_first_process(
                weights, lambda save: on_checkpoint(index_by_step[step], step, examples_seen, save), lvlm.save
            )

    lvlm.model.requires_grad_(requires_grad=True)
    lvlm.freeze_vision()
    loop = _loop(lvlm, lvlm.model, examples, load_image, settings, execution)
    return {**loop.run(on_step), "checkpoint_steps": list(checkpoint_steps)}


def train_lora(
    lvlm: LVLM,
    examples: Sequence[Example],
    load_image: LoadImage,
    settings: TrainingSettings,
    *,
    on_adapter: OnAdapter,
    on_progress: OnProgress,
    weights: Mapping[str, float] | None = None,
    execution: Execution = ALONE,
) -> dict[str, Any]:
    """Train a LoRA adapter on the language model's linear layers and the whole projector.

    `weights`: of the examples' losses, by uid, as in `answer_loss`; None weighs all of them alike.

    `on_adapter` is called at the end, by the first process; it saves adapter_model.safetensors and
    adapter_config.json, as peft reads them. The base's weights stay; `lvlm.model` carries the adapter afterwards.

    Returns the metrics of `TrainingLoop.run`; raises as `train_full`, and BadDataError for a weight that is not there
    or not above 0.
    """
    _require_weights(examples, weights)
    num_seen = settings.num_epochs * len(examples)
    num_steps = optimizer_steps(num_seen, settings.global_batch)
    model = _with_adapter(lvlm, settings)

    def on_step(step: int, examples_seen: int, weights: Weights) -> None:
        on_progress(examples_seen, num_seen)
        if step == num_steps:
            _on_first_process(weights, on_adapter, lambda folder, gathered: _save_adapter(model, folder, gathered))

    loop = _loop(lvlm, model, examples, load_image, settings, execution)
    loop.feed.weights = weights
    return loop.run(on_step)


def _require_weights(examples: Sequence[Example], weights: Mapping[str, float] | None) -> None:
    if weights is None:
        return
    for example in examples:
        weight = weights.get(example.uid)
        if weight is None or not (math.isfinite(weight) and weight > 0):
            raise BadDataError(
                f"Example {example.uid} has the weight {weight}.",
                "Give every example of the subset a finite weight above 0, or set training.example_weights to false.",
            )


def _on_first_process(
    weights: Weights,
    take: Callable[[Callable[[Path], None]], None],
    save: Callable[[Path, dict[str, Tensor] | None], None],
) -> None:
    """Let the first process save, with all weights; the others only help to gather them, and wait."""
    gathered, processes = weights(), PartialState()
    if processes.is_main_process:
        take(lambda folder: save(folder, gathered))
    processes.wait_for_everyone()


def _loop(
    lvlm: LVLM,
    model: nn.Module,
    examples: Sequence[Example],
    load_image: LoadImage,
    settings: TrainingSettings,
    execution: Execution,
) -> TrainingLoop:
    order = _order(examples, settings)
    feed = ExamplesInOrder(lvlm, examples, order, load_image, settings.max_length)
    return TrainingLoop(lvlm, model, feed, settings, execution, lambda: _optimizer(lvlm, model, settings))


def _order(examples: Sequence[Example], settings: TrainingSettings) -> list[int]:
    uids = [example.uid for example in examples]
    if settings.grouping == "none":
        return training_order(uids, settings.seed, settings.num_epochs)
    has_image = [example.modality == "image" for example in examples]
    lengths = [sum(len(turn.text.split()) for turn in example.turns) for example in examples]
    return grouped_order(uids, has_image, lengths, settings.seed, settings.num_epochs, settings.global_batch)


def _with_adapter(lvlm: LVLM, settings: TrainingSettings) -> PeftModel:
    if settings.lora is None:
        raise UsageError("A LoRA training has no lora settings.", "Give rank, alpha and dropout.")
    torch.manual_seed(settings.seed)  # the adapter's first weights are drawn here
    configuration = LoraConfig(
        r=settings.lora.rank,
        lora_alpha=settings.lora.alpha,
        lora_dropout=settings.lora.dropout,
        target_modules=lvlm.lora_targets(),
        modules_to_save=lvlm.projector_modules(),
    )
    model = get_peft_model(lvlm.model, configuration)
    for parameter in model.parameters():
        if parameter.requires_grad:  # peft 0.21 copies the projector in the base's dtype
            parameter.data = parameter.data.float()
    return model


def _save_adapter(model: PeftModel, out_dir: Path, gathered: dict[str, Tensor] | None = None) -> None:
    """As PeftModel.save_pretrained, less its model card and the base's local path: equal adapters are equal bytes."""
    out_dir.mkdir(parents=True, exist_ok=True)
    state = get_peft_model_state_dict(model, state_dict=gathered)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with os_errors():
        save_file(weights, out_dir / "adapter_model.safetensors", metadata={"format": "pt"})
    configuration = {**model.peft_config["default"].to_dict(), "base_model_name_or_path": None, "inference_mode": True}
    text = json.dumps(configuration, indent=2, sort_keys=True, default=sorted)  # sets have no order of their own
    (out_dir / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def _optimizer(lvlm: LVLM, model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """AdamW; the projector at its own rate, and no weight decay on vectors (biases, norms)."""
    modules = [lvlm.model.get_submodule(name) for name in lvlm.projector_modules()]
    in_projector = {id(parameter) for module in modules for parameter in module.parameters()}
    own_rate = settings.projector_learning_rate
    projector_rate = settings.learning_rate if own_rate is None else own_rate
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in filter(lambda parameter: parameter.requires_grad, model.parameters()):
        rate = projector_rate if id(parameter) in in_projector else settings.learning_rate
        decay = settings.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()], fused=True
    )
