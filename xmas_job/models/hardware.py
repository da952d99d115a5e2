"""The hardware section of a configuration, applied to torch."""

from __future__ import annotations

from typing import Literal

import torch

from xmas_job.errors import UsageError
from xmas_job.sections import Dtype, Hardware


def apply_hardware(hardware: Hardware) -> torch.dtype:
    """Fix what the last bits of sums depend on, CPU threads and TF32; return the dtype for weights.

    Raises:
        UsageError: if a GPU is asked for and none is visible.
    """
    if hardware.device == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "the recipe asks for device cuda, but no GPU is visible.", "Give the process a GPU, or set cpu."
        )
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.set_num_threads(hardware.cpu_threads)
    return to_torch_dtype(hardware.dtype)


def to_torch_dtype(dtype: Dtype) -> torch.dtype:
    """The torch dtype of that name."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]


def device_name(device: Literal["cpu", "cuda"]) -> str:
    """The GPU's name as its maker gives it, or "cpu"."""
    return torch.cuda.get_device_name() if device == "cuda" else device
