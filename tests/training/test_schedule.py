from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmas_job.errors import UsageError
from xmas_job.training.schedule import (
    accumulation_steps,
    checkpoint_positions,
    grouped_order,
    optimizer_steps,
    training_order,
)


@pytest.mark.parametrize(
    ("num_examples", "num_checkpoints", "global_batch", "expected"),
    [
        # 100 / 4 = 25 steps; a fifth of the examples is 20 = 5 steps.
        (100, 5, 4, [5, 10, 15, 20, 25]),
        # 10 / 3 -> 4 steps of 3, 3, 3, 1; half of 10 is first reached after step 2 (6 seen).
        (10, 2, 3, [2, 4]),
        # A third of 9 is 3 (step 1 sees 4), two thirds 6 (step 2 sees 8), the end is step 3 (9).
        (9, 3, 4, [1, 2, 3]),
        (9, 1, 4, [3]),
        (1, 1, 128, [1]),
        # 1,455 steps of 128 in seven parts of 207.86 steps, each rounded up.
        (186_240, 7, 128, [208, 416, 624, 832, 1040, 1248, 1455]),
    ],
)
def test_checkpoints_lie_at_even_fractions_of_the_examples(num_examples, num_checkpoints, global_batch, expected):
    assert checkpoint_positions(num_examples, num_checkpoints, global_batch) == expected


def test_more_checkpoints_than_steps_are_refused_with_a_remedy():
    with pytest.raises(UsageError, match=r"4 checkpoints do not fit into 3 .* fewer checkpoints or a smaller"):
        checkpoint_positions(9, 4, 4)


@pytest.mark.parametrize("arguments", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (10, 2, -4)])
def test_a_number_below_one_is_refused(arguments):
    with pytest.raises(UsageError, match="at least 1"):
        checkpoint_positions(*arguments)


@given(st.integers(1, 5000), st.integers(1, 64), st.integers(1, 300))
def test_positions_rise_strictly_and_see_their_fraction_first(num_examples, num_checkpoints, global_batch):
    num_steps = optimizer_steps(num_examples, global_batch)
    if num_checkpoints > num_steps:
        with pytest.raises(UsageError):
            checkpoint_positions(num_examples, num_checkpoints, global_batch)
        return
    positions = checkpoint_positions(num_examples, num_checkpoints, global_batch)
    assert positions[-1] == num_steps
    assert all(a < b for a, b in zip([0, *positions], positions, strict=False))
    for index, step in enumerate(positions, start=1):
        seen, seen_before = min(step * global_batch, num_examples), (step - 1) * global_batch
        assert seen_before * num_checkpoints < index * num_examples <= seen * num_checkpoints


def test_accumulation_keeps_the_global_batch_on_any_number_of_devices():
    assert accumulation_steps(128, 8) == 16
    assert accumulation_steps(128, 8, world_size=4) == 4
    assert accumulation_steps(128, 32, world_size=4) == 1


@pytest.mark.parametrize(("per_device_batch", "world_size"), [(3, 1), (8, 3), (256, 1)])
def test_a_global_batch_that_does_not_divide_is_refused(per_device_batch, world_size):
    with pytest.raises(UsageError, match="not a multiple"):
        accumulation_steps(128, per_device_batch, world_size)


def test_the_order_is_a_new_permutation_every_epoch():
    uids = [f"{number:032x}" for number in range(50)]
    order = training_order(uids, seed=3, num_epochs=2)
    first, second = order[:50], order[50:]
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert first != training_order(uids, seed=4)
    assert first == training_order(uids, seed=3)


def test_the_order_of_the_input_does_not_matter():
    uids = [f"{number:032x}" for number in range(50)]
    backwards = uids[::-1]
    assert [uids[i] for i in training_order(uids, seed=3)] == [backwards[i] for i in training_order(backwards, seed=3)]


def test_the_order_is_the_one_of_the_digests():
    # `printf 0:0:a | sha256sum` and so on: a 5afc6a95, b 93f09a8d, c 6fba0560.
    assert training_order(["a", "b", "c"], seed=0) == [0, 2, 1]


def test_grouped_steps_hold_one_modality_sorted_by_length_and_the_rest_comes_last():
    uids = [f"{number:032x}" for number in range(22)]
    has_image = [number % 2 == 0 for number in range(22)]  # 11 of each: 2 steps of 4 each, and 3 + 3 left
    lengths = [number * 7 % 22 for number in range(22)]
    order = grouped_order(uids, has_image, lengths, seed=1, num_epochs=2, global_batch=4)
    first, second = order[:22], order[22:]
    assert sorted(first) == sorted(second) == list(range(22))
    assert first != second
    steps = [first[begin : begin + 4] for begin in range(0, 16, 4)]
    assert sorted(len({has_image[index] for index in step}) for step in steps) == [1, 1, 1, 1]
    assert sum(has_image[step[0]] for step in steps) == 2
    assert {has_image[index] for index in first[16:]} == {True, False}
    for step in [*steps, first[16:]]:
        assert [lengths[index] for index in step] == sorted((lengths[index] for index in step), reverse=True)


def test_grouped_steps_of_both_modalities_are_mixed():
    uids, has_image = [f"{number:032x}" for number in range(64)], [number < 32 for number in range(64)]
    order = grouped_order(uids, has_image, [1] * 64, seed=0, num_epochs=1, global_batch=4)
    kinds = [has_image[order[begin]] for begin in range(0, 64, 4)]
    assert sum(a != b for a, b in itertools.pairwise(kinds)) >= 4  # 8 and 8 steps; sorted there is 1 change


def test_grouping_one_modality_is_the_plain_order():
    uids = [f"{number:032x}" for number in range(9)]
    assert grouped_order(uids, [True] * 9, list(range(9)), 3, 2, 4) == training_order(uids, 3, 2)
