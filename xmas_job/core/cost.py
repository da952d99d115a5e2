"""What trainings cost: FLOPs, memory and hours from sizes and token counts. Arithmetic on numbers, no models.

Owns the formulas and the devices' peaks. Refuses to own where sizes come from.
"""

from __future__ import annotations

PEAK_TFLOPS = {
    # Dense, without sparsity, as the makers state: (bfloat16, TF32 off float32).
    "H200": (989.0, 67.0),
    "H100": (989.0, 67.0),
    "A100": (312.0, 19.5),
    "L40S": (362.0, 91.6),
    "A6000": (154.8, 38.7),
    "4090": (165.2, 82.6),
}


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
