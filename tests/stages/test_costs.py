"""What trainings and extraction were estimated to take, and took, in their records."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stages.model_world import World
from xmas_job.data.stored import read_examples
from xmas_job.models.adapter import LVLM
from xmas_job.storage.record import Artifact


def sizes_of(world: World) -> tuple[int, int, int]:
    """Weights of language, vision and projector, counted in the loaded model."""
    named = LVLM.load(Path(world.model.uri)).model.named_parameters()
    found = {"language_model": 0, "vision_tower": 0, "multi_modal_projector": 0}
    for name, weight in named:
        part = next((part for part in found if part in name), "language_model")  # its head lies beside it
        found[part] += weight.numel()
    language, vision, projector = found.values()
    return language, vision, projector


def test_proxy_record_has_what_it_was_estimated_to_take_and_took(world: World, proxy: Artifact) -> None:
    language, vision, projector = sizes_of(world)
    examples, _ = read_examples([world.ingested])
    # Estimated: 10 pictures of 16 tokens; words: nine times "How many n? red", "Which? red", "Which one? red",
    # and 80 times "no", "a" and "red".
    num_words = 9 * 4 + 2 + 3 + 82
    num_image_tokens = 10 * 16
    per_image_token = 6 * projector + 2 * vision
    estimated = 6 * language * (num_words * 4 / 3 + num_image_tokens) + per_image_token * num_image_tokens
    metrics = proxy.record.metrics
    assert metrics["estimated_pflops"] == pytest.approx(estimated / 1e15)
    # Used: the image of the long example is cut off.
    lvlm = LVLM.load(Path(world.model.uri))
    encoded = [
        lvlm.encode(example, [world.load_image(uri) for uri in example.image_uris], max_length=48)
        for example in examples
    ]
    num_tokens = sum(len(one.input_ids) for one in encoded)
    assert (metrics["num_tokens"], metrics["num_image_tokens"]) == (num_tokens, 9 * 16)
    assert metrics["pflops"] == pytest.approx((6 * language * num_tokens + per_image_token * 9 * 16) / 1e15)
    assert (metrics["device"], metrics["gpu_hours"], metrics["estimated_gpu_hours"]) == ("cpu", 0.0, None)


def test_extraction_estimates_of_partitions_add_up(world: World, parts: list[Artifact]) -> None:
    language, vision, projector = sizes_of(world)
    num_tokens, num_image_tokens = (9 * 4 + 2 + 3 + 82) * 4 / 3 + 10 * 16, 10 * 16
    expected = 2 * (2 * language * num_tokens + 2 * projector * num_image_tokens) + 2 * vision * num_image_tokens
    found = [part.record.metrics["estimated_pflops"] for part in parts]
    assert sum(float(str(one)) for one in found) == pytest.approx(expected / 1e15)
    assert [part.record.metrics["gpu_hours"] for part in parts] == [0.0] * 3
    assert all("estimated_gpu_hours" not in part.record.metrics for part in parts)  # nobody knows a CPU's peak
