"""Supervised fine-tuning of a vision-language model: one loop for proxy (full) and target (LoRA).

Owns what is trained, with which settings, the watchdogs and the moments of saving, on transformers' Trainer. Refuses
to own batches and the loss (batches), where checkpoints go (the caller's `on_checkpoint`) and more than one process.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from xmas_job.data.examples import Example
from xmas_job.errors import BadDataError, UsageError
from xmas_job.models.adapter import LVLM
from xmas_job.models.saving import os_errors
from xmas_job.training.batches import AnswerLoss, Collate, ExamplesInOrder, LoadImage
from xmas_job.training.schedule import accumulation_steps, optimizer_steps, training_order

# (index, optimizer step, examples seen, save): index 0 is the model before training; `save` writes a directory.
OnCheckpoint = Callable[[int, int, int, Callable[[Path], None]], None]
OnProgress = Callable[[int, int], None]  # (examples seen, examples in all)


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
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["cpu", "cuda"] = "cpu"
    lora: LoraSettings | None = None


def train_full(
    lvlm: LVLM,
    examples: Sequence[Example],
    load_image: LoadImage,
    settings: TrainingSettings,
    *,
    checkpoint_steps: Sequence[int],
    on_checkpoint: OnCheckpoint,
    on_progress: OnProgress,
) -> dict[str, Any]:
    """Train language model and projector of `lvlm` in place, the vision tower frozen.

    `checkpoint_steps` are rising optimizer steps (T,) as from `checkpoint_positions`; `on_checkpoint` is called with
    index 0 before the first step and with 1..T after these.

    Returns:
        The metrics of `_train` and `checkpoint_steps`.

    Raises:
        BadDataError: no example has an answer token, or loss or gradient is not finite.
        UsageError: batch sizes that do not divide, a checkpoint past the end, weights not in float32.
    """
    num_seen = settings.num_epochs * len(examples)
    num_steps = optimizer_steps(num_seen, settings.global_batch)
    if max(checkpoint_steps) > num_steps:
        raise UsageError(
            f"A checkpoint at optimizer step {max(checkpoint_steps)} lies past the end at {num_steps}.",
            "Take the steps from checkpoint_positions.",
        )
    index_by_step = {step: index for index, step in enumerate([0, *checkpoint_steps])}

    def on_step(step: int, examples_seen: int) -> None:
        on_progress(examples_seen, num_seen)
        if step in index_by_step:
            on_checkpoint(index_by_step[step], step, examples_seen, lvlm.save)

    lvlm.model.requires_grad_(requires_grad=True)
    lvlm.freeze_vision()
    feed = ExamplesInOrder(lvlm, examples, _order(examples, settings), load_image, settings.max_length)
    return {**_train(lvlm, lvlm.model, feed, settings, on_step), "checkpoint_steps": list(checkpoint_steps)}


def train_lora(
    lvlm: LVLM,
    examples: Sequence[Example],
    load_image: LoadImage,
    settings: TrainingSettings,
    *,
    out_dir: Path,
    on_progress: OnProgress,
) -> dict[str, Any]:
    """Train a LoRA adapter on the language model's linear layers and the whole projector, and write it to `out_dir`.

    Written are adapter_model.safetensors and adapter_config.json, as peft reads them. The base model's weights stay
    as they are; `lvlm.model` carries the adapter afterwards.

    Returns the metrics of `_train`; raises as `train_full`.
    """
    num_seen = settings.num_epochs * len(examples)
    model = _with_adapter(lvlm, settings)
    feed = ExamplesInOrder(lvlm, examples, _order(examples, settings), load_image, settings.max_length)
    metrics = _train(lvlm, model, feed, settings, lambda _step, examples_seen: on_progress(examples_seen, num_seen))
    _save_adapter(model, out_dir)
    return metrics


def _order(examples: Sequence[Example], settings: TrainingSettings) -> list[int]:
    return training_order([example.uid for example in examples], settings.seed, settings.num_epochs)


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


def _save_adapter(model: PeftModel, out_dir: Path) -> None:
    """As PeftModel.save_pretrained, less its model card and the base's local path: equal adapters are equal bytes."""
    out_dir.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in get_peft_model_state_dict(model).items()}
    with os_errors():
        save_file(weights, out_dir / "adapter_model.safetensors", metadata={"format": "pt"})
    configuration = {**model.peft_config["default"].to_dict(), "base_model_name_or_path": None, "inference_mode": True}
    text = json.dumps(configuration, indent=2, sort_keys=True, default=sorted)  # sets have no order of their own
    (out_dir / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def _train(
    lvlm: LVLM,
    model: nn.Module,
    feed: ExamplesInOrder,
    settings: TrainingSettings,
    on_step: Callable[[int, int], None],
) -> dict[str, Any]:
    """Run the optimizer over the feed once; `on_step(step, examples seen)` follows step 0 and every healthy step.

    Returns:
        loss_first and loss_last (means over the first and the last tenth of the steps), loss_mean (over the steps),
        num_steps, num_examples (seen, epochs counted), num_supervised_tokens, num_unsupervised_examples, seconds,
        examples_per_second.
    """
    begin = time.monotonic()
    _check_device(model, settings)
    feed.require_an_answer()
    loss, watch = AnswerLoss(), _Watch(on_step, len(feed), settings.global_batch)
    with TemporaryDirectory() as scratch:
        _trainer(lvlm, model, feed, settings, scratch, loss, watch).train()
    model.eval()
    seconds = time.monotonic() - begin
    tenth = math.ceil(len(watch.losses) / 10)
    return {
        "loss_first": _mean(watch.losses[:tenth]),
        "loss_last": _mean(watch.losses[-tenth:]),
        "loss_mean": _mean(watch.losses),
        "num_steps": len(watch.losses),
        "num_examples": len(feed),
        "num_supervised_tokens": loss.num_tokens,
        "num_unsupervised_examples": loss.num_unsupervised_examples,
        "seconds": seconds,
        "examples_per_second": len(feed) / seconds,
    }


def _trainer(
    lvlm: LVLM,
    model: nn.Module,
    feed: ExamplesInOrder,
    settings: TrainingSettings,
    scratch: str,
    loss: AnswerLoss,
    watch: _Watch,
) -> Trainer:
    configuration = lvlm.model.config
    own_values = dict(vars(configuration))
    trainer = Trainer(
        model=model,
        args=_training_arguments(settings, scratch),
        train_dataset=feed,
        data_collator=Collate(lvlm),
        compute_loss_func=loss,
        callbacks=[watch],
        optimizers=(_optimizer(lvlm, model, settings), None),
    )
    trainer.remove_callback(PrinterCallback)  # added whenever disable_tqdm is set
    if "use_cache" not in own_values:  # transformers 5.23 writes it there, and checkpoints would keep it
        del configuration.use_cache
    else:
        configuration.use_cache = own_values["use_cache"]
    return trainer


def _training_arguments(settings: TrainingSettings, scratch: str) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=scratch,
        per_device_train_batch_size=settings.per_device_batch,
        gradient_accumulation_steps=accumulation_steps(settings.global_batch, settings.per_device_batch),
        num_train_epochs=1,  # the feed holds all epochs, each in its own order
        train_sampling_strategy="sequential",
        lr_scheduler_type=settings.lr_schedule,
        warmup_steps=settings.warmup_fraction,  # below 1 it is a fraction of all steps
        max_grad_norm=settings.max_grad_norm,
        bf16=settings.dtype == "bfloat16",
        use_cpu=settings.device == "cpu",
        seed=settings.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        log_level="error",
        remove_unused_columns=False,
        dataloader_pin_memory=settings.device == "cuda",
    )
    num_devices = max(arguments.n_gpu, arguments.world_size)
    if num_devices > 1:
        raise UsageError(
            f"Training sees {num_devices} devices but runs on one.",
            "Set CUDA_VISIBLE_DEVICES to one GPU and start one process.",
        )
    return arguments


def _check_device(model: nn.Module, settings: TrainingSettings) -> None:
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("No CUDA device is visible.", 'Set device to "cpu", or give the process a GPU.')
    if any(parameter.requires_grad and parameter.dtype != torch.float32 for parameter in model.parameters()):
        raise UsageError(
            "The weights to train are not in float32, so small updates would be rounded away.",
            'Load the model in float32; dtype "bfloat16" then computes in bfloat16.',
        )


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


@dataclass(slots=True)
class _Watch(TrainerCallback):  # type: ignore[misc]
    """Watchdogs after every optimizer step, then `on_step`.

    It hangs on `on_log`, the one event that follows a step and knows its loss: no checkpoint is ever saved from a
    step that was not finite.
    """

    on_step: Callable[[int, int], None]
    num_examples: int
    global_batch: int
    losses: list[float] = field(default_factory=list)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Step 0: nothing is trained yet."""
        self.on_step(0, 0)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float], **kwargs: Any) -> None:  # noqa: ARG002
        """After a step; the log at the end of training has no `loss`."""
        if "loss" not in logs:
            return
        loss, gradient = logs["loss"], logs["grad_norm"]
        if not (math.isfinite(loss) and math.isfinite(gradient)):
            raise BadDataError(
                f"Training broke at optimizer step {state.global_step}: loss {loss}, gradient norm {gradient}.",
                "Lower the learning rate, or look at the examples of that step.",
            )
        self.losses.append(loss)
        self.on_step(state.global_step, min(state.global_step * self.global_batch, self.num_examples))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
