"""In which order a training run sees its examples, when it steps and when it is saved.

Owns the order, checkpoint positions and gradient accumulation. Refuses to own the loop (sft) and needs no torch.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from xmas_job.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence


def optimizer_steps(num_examples: int, global_batch: int) -> int:
    """Optimizer steps that see every example once; the last step may see fewer than `global_batch`."""
    return -(-num_examples // global_batch)


def checkpoint_positions(num_examples: int, num_checkpoints: int, global_batch: int) -> list[int]:
    """Optimizer steps (T,) after which checkpoints 1..T are saved; the last is the end of training.

    Checkpoint t lies at the first step that has seen at least t/T of the examples, so it means the same amount of
    data at every batch size and device count.

    Choice: the paper does not place its 7 checkpoints; they are spaced evenly over the pass, the last at its end.

    Args:
        num_examples: examples seen over the whole training (pool size times epochs).
        num_checkpoints: T, not counting checkpoint 0.
        global_batch: examples an optimizer step.

    Raises:
        UsageError: a number below 1, or fewer optimizer steps than checkpoints.
    """
    _require_positive(num_examples=num_examples, num_checkpoints=num_checkpoints, global_batch=global_batch)
    num_steps = optimizer_steps(num_examples, global_batch)
    if num_checkpoints > num_steps:
        raise UsageError(
            f"{num_checkpoints} checkpoints do not fit into {num_steps} optimizer steps "
            f"({num_examples} examples at a global batch of {global_batch}).",
            "Ask for fewer checkpoints or a smaller global batch.",
        )
    return [
        optimizer_steps(index * num_examples, num_checkpoints * global_batch) for index in range(1, num_checkpoints + 1)
    ]


def accumulation_steps(global_batch: int, per_device_batch: int, world_size: int = 1) -> int:
    """Batches a device sums up before one optimizer step, so that `global_batch` holds on any number of devices.

    Raises:
        UsageError: `global_batch` is not a multiple of what the devices take at once.
    """
    _require_positive(global_batch=global_batch, per_device_batch=per_device_batch, world_size=world_size)
    at_once = per_device_batch * world_size
    if global_batch % at_once:
        raise UsageError(
            f"The global batch {global_batch} is not a multiple of {at_once} "
            f"(per-device batch {per_device_batch} on {world_size} device(s)).",
            "Choose a per-device batch that divides global batch / devices.",
        )
    return global_batch // at_once


def _require_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise UsageError(f"{name} is {value}.", "It must be at least 1.")


def training_order(uids: Sequence[str], seed: int, num_epochs: int = 1) -> list[int]:
    """Indices (num_epochs * N,) in the order of training: every epoch another permutation of all examples.

    Sorted by the sha256 of "seed:epoch:uid": the order depends on the seed and the uids alone, so no version of a
    random generator and no order of the input can change it.
    """
    keys = [[_order_key(seed, epoch, uid) for uid in uids] for epoch in range(num_epochs)]
    return [index for epoch_keys in keys for index in sorted(range(len(uids)), key=epoch_keys.__getitem__)]


def grouped_order(
    uids: Sequence[str],
    has_image: Sequence[bool],
    lengths: Sequence[int],
    seed: int,
    num_epochs: int,
    global_batch: int,
) -> list[int]:
    """As `training_order`, with examples of one modality and alike length in one optimizer step.

    Each modality is permuted and cut into steps; a step is sorted by falling length, so that its device batches are
    alike; the full steps of both are permuted, and what is left of both comes last (LLaVA's group_by_modality_length).
    With one modality alone it is `training_order`.

    Args:
        uids: (N,) of the examples.
        has_image: (N,) their modalities.
        lengths: (N,) of any unit.
        seed: of both permutations.
        num_epochs: passes, each permuted anew.
        global_batch: examples an optimizer step.
    """
    if len(set(has_image)) < 2:
        return training_order(uids, seed, num_epochs)
    order: list[int] = []
    for epoch in range(num_epochs):
        keys = [_order_key(seed, epoch, uid) for uid in uids]
        steps: list[list[int]] = []
        left: list[int] = []
        for modality in (True, False):
            members = sorted((i for i in range(len(uids)) if has_image[i] is modality), key=keys.__getitem__)
            num_full = len(members) // global_batch * global_batch
            steps += [members[begin : begin + global_batch] for begin in range(0, num_full, global_batch)]
            left += members[num_full:]
        steps.sort(key=lambda step: _order_key(seed, epoch, f"step:{uids[step[0]]}"))
        for step in [*steps, left]:
            order += sorted(step, key=lambda index: -lengths[index])
    return order


def _order_key(seed: int, epoch: int, uid: str) -> bytes:
    return hashlib.sha256(f"{seed}:{epoch}:{uid}".encode()).digest()
