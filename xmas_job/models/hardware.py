"""The hardware section of a configuration, applied to torch."""

from __future__ import annotations

import torch

from xmas_job.config import Dtype, Hardware


def apply_hardware(hardware: Hardware) -> torch.dtype:
    """Fix the number of CPU threads, on which the last bits of sums depend; return the dtype for weights."""
    torch.set_num_threads(hardware.cpu_threads)
    return to_torch_dtype(hardware.dtype)


def to_torch_dtype(dtype: Dtype) -> torch.dtype:
    """The torch dtype of that name."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
