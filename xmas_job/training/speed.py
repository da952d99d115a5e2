"""How fast a training is and how much memory it takes: tokens a second, model FLOPs utilisation, peak memory.

Owns the measuring. Refuses to own the count of FLOPs (core.cost).
"""

from __future__ import annotations

import torch

from xmas_job.core.cost import peak_flops, training_flops_per_token
from xmas_job.fingerprint import Json
from xmas_job.models.adapter import LVLM
from xmas_job.models.hardware import device_name
from xmas_job.training.settings import Execution, TrainingSettings


class Speed:
    """Of one training, over all its processes."""

    def __init__(self, lvlm: LVLM, settings: TrainingSettings, execution: Execution) -> None:
        on_cuda = settings.device == "cuda"
        self._device = device_name(settings.device)
        peak = peak_flops(self._device, settings.dtype)
        self._flops = training_flops_per_token(_num_parameters(lvlm), is_lora=settings.lora is not None)
        self._peak = None if peak is None else peak * execution.layout.num_processes
        self._num_gpus = execution.layout.num_processes if on_cuda else 0
        self._last = 0, 0.0

    def since_last(self, num_tokens: int, seconds: float) -> dict[str, Json]:
        """Rates between this call and the one before, for events."""
        (tokens_before, seconds_before), self._last = self._last, (num_tokens, seconds)
        return self._rates(num_tokens - tokens_before, seconds - seconds_before)

    def overall(self, num_tokens: int, seconds: float) -> dict[str, Json]:
        """Of a whole training: its rates, and what it took of which device."""
        hours = round(self._num_gpus * seconds / 3600, 4)
        return {**self._rates(num_tokens, seconds), "device": self._device, "gpu_hours": hours}

    def _rates(self, num_tokens: int, seconds: float) -> dict[str, Json]:
        rate = num_tokens / seconds if seconds else 0.0
        return {
            "tokens_per_second": round(rate, 1),
            "mfu": None if self._peak is None else round(rate * self._flops / self._peak, 4),
            "peak_memory_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2) if self._num_gpus else None,
        }


def _num_parameters(lvlm: LVLM) -> int:
    return sum(parameter.numel() for parameter in lvlm.language_model().parameters())
