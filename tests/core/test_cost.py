from __future__ import annotations

import pytest

from xmas_job.core.cost import (
    Load,
    ModelSize,
    extraction_flops,
    gpu_hours,
    peak_flops,
    training_flops,
    training_memory,
)

# Round numbers: a 1B decoder, a 300M tower, a 10M projector, 576 tokens a picture.
SIZE = ModelSize(10**9, 3 * 10**8, 10**7, width=2048, num_layers=24, vocabulary=100_000, image_tokens=576)
LOAD = Load(num_images=1000, num_text_tokens=424_000)  # 1,000,000 tokens in all


def test_a_full_training_is_six_flops_a_parameter_and_token_and_the_tower_forward_only():
    # 6e9 x 1e6 + (6 x 1e7 + 2 x 3e8) x 576,000
    assert training_flops(SIZE, LOAD, is_lora=False) == pytest.approx(6e15 + 6.6e8 * 576_000)
    assert training_flops(SIZE, LOAD, is_lora=True) == pytest.approx(4e15 + 6.6e8 * 576_000)


def test_extraction_runs_the_tower_once_and_the_rest_at_every_checkpoint():
    assert extraction_flops(SIZE, LOAD, 7) == pytest.approx(7 * (2e15 + 2e7 * 576_000) + 6e8 * 576_000)


def test_zero_spreads_moments_then_gradients_then_weights():
    # 1.31e9 weights x (4 + 2) bytes, 1.01e9 trained x (4 + 8); 1000 tokens: 1000 x 2048 x (2 x 24 + 34) + 1e8 x 6.
    rest = 1000 * 2048 * 82 + 6e8
    expected = [7.86e9 + 4.04e9 + 8.08e9, 7.86e9 + 4.04e9 + 2.02e9, 7.86e9 + 1.01e9 + 2.02e9]
    expected.append(7.86e9 / 4 + 1.01e9 + 2.02e9)
    found = [training_memory(SIZE, num_tokens=1000, num_processes=4, zero_stage=stage) for stage in range(4)]
    assert found == pytest.approx([value + rest for value in expected])
    lora = training_memory(SIZE, num_tokens=1000, is_lora=True)
    assert lora == pytest.approx(7.86e9 + 12 * (5e7 + 1e7) + rest)


def test_hours_are_those_of_the_named_device_and_unknown_for_others():
    # 1e18 FLOPs at 40 % of 312 TFLOPS: 8,013 s.
    assert gpu_hours(1e18, "NVIDIA A100-SXM4-80GB", "bfloat16") == pytest.approx(8012.8 / 3600, rel=1e-4)
    assert gpu_hours(1e18, "a toaster", "bfloat16") is None
    assert peak_flops("NVIDIA H200", "float32") == 67e12
