"""Example weights: what an integer weight means, and which weights are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.tiny_models import tiny_llava
from tests.training.toy import ignore_adapter, ignore_progress, load_image, mixed_pool, settings
from xmas_job.data.examples import Example
from xmas_job.errors import BadDataError
from xmas_job.training.sft import train_lora


def train(examples: list[Example], weights: Mapping[str, float] | None = None, **changes: object) -> dict[str, Any]:
    return train_lora(
        tiny_llava(),
        examples,
        load_image,
        settings(**changes),
        on_adapter=ignore_adapter,
        on_progress=ignore_progress,
        weights=weights,
    )


def test_an_integer_weight_is_the_example_so_often_in_one_batch_or_in_several():
    """Every epoch is one optimizer step, so that repeated examples share it with the others; losses of all three tell
    that the gradients are the same, too."""
    examples = mixed_pool(4)  # three with an image, and one without and with a longer answer
    weights = {example.uid: weight for example, weight in zip(examples, (1, 2, 1, 3), strict=True)}
    repeated = [example for example in examples for _ in range(weights[example.uid])]
    three: dict[str, Any] = {"num_epochs": 3, "warmup_fraction": 0.0}
    names = ("loss_first", "loss_mean", "loss_last")
    expected = train(repeated, global_batch=7, per_device_batch=7, **three)
    for per_device_batch in (4, 2, 1):
        metrics = train(examples, weights, global_batch=4, per_device_batch=per_device_batch, **three)
        assert [metrics[name] for name in names] == pytest.approx([expected[name] for name in names], rel=1e-5)
    unweighted = train(examples, global_batch=4, per_device_batch=4, **three)
    assert any(abs(unweighted[name] / expected[name] - 1) > 1e-3 for name in names)


def test_weights_count_in_proportion():
    examples = mixed_pool(8)
    some = {example.uid: 0.25 * (1 + number % 3) for number, example in enumerate(examples)}
    metrics = train(examples, some)
    others = train(examples, {uid: 8 * weight for uid, weight in some.items()})
    assert metrics["loss_mean"] == pytest.approx(others["loss_mean"], rel=1e-6)


@pytest.mark.parametrize("bad", [None, -1.0, 0.0, float("nan"), float("inf")])
def test_a_weight_that_is_missing_or_not_above_zero_is_refused(bad):
    examples = mixed_pool(8)
    weights = {example.uid: 1.0 for example in examples[:-1]}
    if bad is not None:
        weights[examples[-1].uid] = bad
    with pytest.raises(BadDataError, match=rf"Example {examples[-1].uid} has the weight {bad}.*finite weight above 0"):
        train(examples, weights)
