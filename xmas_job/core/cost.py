"""What trainings and extraction cost: FLOPs, memory and hours from sizes and token counts. Arithmetic on numbers.

Owns the formulas and the devices' peaks. Refuses to own where sizes come from.
"""

from __future__ import annotations

from dataclasses import dataclass

PEAK_TFLOPS = {
    # Dense, without sparsity, as the makers state: (bfloat16, float32).
    "H200": (989.0, 67.0),
    "H100": (989.0, 67.0),
    "A100": (312.0, 19.5),
    "L40S": (362.0, 91.6),
    "A6000": (154.8, 38.7),
    "4090": (165.2, 82.6),
}
USUAL_UTILISATION = 0.4
"""Of the peak, what a training that is set up well reaches."""
TOKENS_A_WORD = 4 / 3
"""Of English text, by the usual tokenizers; roles and system prompt come on top."""
BYTES_FLOAT32, BYTES_ADAM, BYTES_AUTOCAST = 4, 8, 2
BYTES_A_LAYER = 34
"""Activations of a decoder layer, per token and unit of width, in bfloat16 with a fused attention."""
LORA_SHARE = 0.05
"""Of the language model's parameters, what adapters and projector are at most; at rank 128 of 7B 4.7 %."""


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Parameters of the parts of an LVLM, and what its activations depend on."""

    language: int
    vision: int
    projector: int
    width: int
    num_layers: int
    vocabulary: int
    image_tokens: int
    """Of one picture."""

    @property
    def parameters(self) -> int:
        """Of all parts."""
        return self.language + self.vision + self.projector


@dataclass(frozen=True, slots=True)
class Load:
    """What passes through a model, epochs counted."""

    num_images: float
    num_text_tokens: float

    def num_tokens(self, size: ModelSize) -> float:
        """Of text and pictures."""
        return self.num_text_tokens + self.num_images * size.image_tokens


def peak_flops(device: str, dtype: str) -> float | None:
    """FLOPs a second of a device by its name; None for one that is not listed."""
    for name, (bfloat16, float32) in PEAK_TFLOPS.items():
        if name in device:
            return 1e12 * (bfloat16 if dtype == "bfloat16" else float32)
    return None


def training_flops_per_token(num_parameters: int, *, is_lora: bool) -> float:
    """FLOPs of forward and backward a token: 2 N forward, 2 N for activations' and 2 N for weights' gradients.

    A LoRA training has no gradients of the N weights. Attention's own products and activations that are computed
    again are left out, as is usual for model FLOPs utilisation.
    """
    return (4.0 if is_lora else 6.0) * num_parameters


def training_flops(size: ModelSize, load: Load, *, is_lora: bool) -> float:
    """Of a whole training; the frozen vision tower runs forward only."""
    seen = load.num_images * size.image_tokens
    language = training_flops_per_token(size.language, is_lora=is_lora) * load.num_tokens(size)
    return language + 6.0 * size.projector * seen + 2.0 * size.vision * seen


def extraction_flops(size: ModelSize, load: Load, num_checkpoints: int) -> float:
    """Forward of language model and projector at every checkpoint; the vision tower, equal in all, once."""
    seen = load.num_images * size.image_tokens
    every = 2.0 * size.language * load.num_tokens(size) + 2.0 * size.projector * seen
    return num_checkpoints * every + 2.0 * size.vision * seen


def training_memory(
    size: ModelSize,
    *,
    num_tokens: int,
    num_processes: int = 1,
    zero_stage: int = 0,
    is_lora: bool = False,
    recomputes: bool = True,
) -> float:
    """Bytes on a device at the peak: weights, gradients, Adam's two moments, autocast copies, activations, logits.

    Args:
        size: of the model.
        num_tokens: on a device at once.
        num_processes: that share what the ZeRO stage spreads: 1 moments, 2 gradients too, 3 weights too.
        zero_stage: 0 to 3.
        is_lora: only adapters and projector are trained.
        recomputes: activations are kept at the layers' borders alone.
    """

    def spread(first_stage: int) -> int:
        return num_processes if zero_stage >= first_stage else 1

    trained = size.language * (LORA_SHARE if is_lora else 1.0) + size.projector
    weights = size.parameters * BYTES_FLOAT32 / spread(3) + size.parameters * BYTES_AUTOCAST / spread(3)
    states = trained * BYTES_FLOAT32 / spread(2) + trained * BYTES_ADAM / spread(1)
    one_layer = num_tokens * size.width * BYTES_A_LAYER
    kept = num_tokens * size.width * 2 * size.num_layers + one_layer if recomputes else one_layer * size.num_layers
    logits = num_tokens * size.vocabulary * (BYTES_AUTOCAST + BYTES_FLOAT32)
    return weights + states + kept + logits


def gpu_hours(flops: float, device: str, dtype: str) -> float | None:
    """At the usual utilisation; None for a device that is not listed."""
    peak = peak_flops(device, dtype)
    return None if peak is None else flops / (peak * USUAL_UTILISATION) / 3600
