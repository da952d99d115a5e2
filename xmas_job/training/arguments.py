"""A training's settings as transformers and DeepSpeed take them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments

from xmas_job.errors import UsageError
from xmas_job.training.schedule import accumulation_steps
from xmas_job.training.settings import Execution, TrainingSettings


def training_arguments(settings: TrainingSettings, execution: Execution, scratch: str) -> TrainingArguments:
    """The Trainer's arguments.

    Raises:
        UsageError: batches that do not divide, or other devices than the layout says.
    """
    layout = execution.layout
    on_cpu = settings.device == "cpu"
    if on_cpu and layout.zero_stage:
        _spare_the_compiler()
    arguments = TrainingArguments(
        output_dir=scratch,
        per_device_train_batch_size=settings.per_device_batch,
        gradient_accumulation_steps=accumulation_steps(
            settings.global_batch, settings.per_device_batch, layout.num_processes
        ),
        num_train_epochs=1,  # the feed holds all epochs, each in its own order
        train_sampling_strategy="sequential",
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_schedule,
        warmup_steps=settings.warmup_fraction,  # below 1 it is a fraction of all steps
        max_grad_norm=settings.max_grad_norm,
        bf16=settings.dtype == "bfloat16" and not layout.zero_stage,  # DeepSpeed brings its own autocast
        use_cpu=on_cpu,
        seed=settings.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        log_level="error",
        remove_unused_columns=False,
        dataloader_pin_memory=not on_cpu,
        dataloader_num_workers=execution.num_loaders,
        activation_checkpointing=execution.activation_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if execution.activation_checkpointing else None,
        ddp_backend="gloo" if on_cpu and layout.num_processes > 1 else None,
        ddp_find_unused_parameters=False,  # the filler uses them all
        deepspeed=_deepspeed(settings, execution) if layout.zero_stage else None,
    )
    if arguments.world_size != layout.num_processes or arguments.n_gpu > 1:
        raise UsageError(
            f"Training sees {max(arguments.n_gpu, arguments.world_size)} devices but runs on {layout.num_processes}.",
            "Start it by its stage (xmas-job stage), which starts a process a device; or show it one GPU alone.",
        )
    return arguments


def _spare_the_compiler() -> None:
    """DeepSpeed 0.19 compiles sums in shared memory at first use on a CPU: minutes, for what gloo does as well."""
    import_module("deepspeed.ops").__compatible_ops__["deepspeed_shm_comm"] = False


def check_device(model: nn.Module, settings: TrainingSettings) -> None:
    """Raises UsageError: no such device, or weights to train that are not in float32."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("No CUDA device is visible.", 'Set device to "cpu", or give the process a GPU.')
    if any(parameter.requires_grad and parameter.dtype != torch.float32 for parameter in model.parameters()):
        raise UsageError(
            "The weights to train are not in float32, so small updates would be rounded away.",
            'Load the model in float32; dtype "bfloat16" then computes in bfloat16.',
        )


def _deepspeed(settings: TrainingSettings, execution: Execution) -> dict[str, Any]:
    """Stage 1 spreads optimizer states over the processes, 2 gradients too, 3 weights too.

    Weights stay in float32 and compute under autocast, as without DeepSpeed, so that both learn the same.
    """
    stage = execution.layout.zero_stage
    is_bfloat16 = settings.dtype == "bfloat16"
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": settings.device == "cuda", "contiguous_gradients": True}
    if stage == 3:
        zero |= {"stage3_gather_16bit_weights_on_model_save": True, "stage3_prefetch_bucket_size": "auto"}
        zero |= {"stage3_param_persistence_threshold": "auto", "reduce_bucket_size": "auto"}
    return {
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,  # torch's AdamW, as without DeepSpeed
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "train_batch_size": "auto",
        "gradient_clipping": "auto",
        "torch_autocast": {"enabled": is_bfloat16, "dtype": "bfloat16"},
        "checkpoint": {"use_node_local_storage": True},
        "steps_per_print": 1 << 30,  # our own events tell
    }
