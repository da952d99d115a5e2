"""The extraction loop: one pass over a partition's examples, all checkpoints resident.

Owns batching and the order of work. Refuses to own the signal's mathematics (alignment.py), files and image loading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image

from xmas_job.data.examples import Example
from xmas_job.extraction.alignment import AbsenceReason, absence_reason, alignment_values, num_block_tokens
from xmas_job.models.adapter import LVLM, Encoded
from xmas_job.progress import ProgressCallback

# Examples are encoded and sorted by length in chunks of about this many bytes of pixels.
_CHUNK_BYTES = 256 * 2**20
# A partition keeps the examples of one image together, so a few decoded images are enough.
_NUM_DECODED_IMAGES = 8


@dataclass(frozen=True)
class ExtractionSettings:
    """What the loop needs beside data.

    Attributes:
        max_length: tokens an example keeps at most, cut on the right.
        top_k: singular values an example.
        token_budget: padded tokens a batch holds at most; a longer example is a batch of its own.
        dtype: of the weights; attention scores are float32 always.
        device: where the models are.
    """

    max_length: int
    top_k: int = 5
    token_budget: int = 16384
    dtype: torch.dtype = torch.float32
    device: str = "cpu"


@dataclass(frozen=True)
class PartitionSignal:
    """One checkpoint's alignment over a partition, sorted by uid; N scored examples.

    Attributes:
        uids: scored examples.
        values: (N, top_k) float32, descending in a row; the alignment score is the row's sum.
        num_text_tokens: (N,) int32, text tokens after the last image token (rows of the block).
        num_image_tokens: (N,) int32, image tokens (columns of the block).
        absent: the other examples as (uid, reason).
    """

    uids: tuple[str, ...]
    values: NDArray[np.float32]
    num_text_tokens: NDArray[np.int32]
    num_image_tokens: NDArray[np.int32]
    absent: tuple[tuple[str, AbsenceReason], ...]


def extract_partition(
    checkpoints: Mapping[int, Path],
    examples: Sequence[Example],
    load_image: Callable[[str], Image],
    settings: ExtractionSettings,
    progress: ProgressCallback,
) -> dict[int, PartitionSignal]:
    """The alignment of every example at every checkpoint; images are decoded and encoded once.

    Args:
        checkpoints: model directories by checkpoint index t; they share one processor.
        examples: the partition; examples of one image are expected next to each other.
        load_image: an RGB image from its URI.
        settings: see `ExtractionSettings`.
        progress: told how many of the partition's examples are done, absent ones included.

    Raises:
        UsageError: a model that has no separate query and key projections.
        BadDataError: a value that is not finite; the message names uid and checkpoint.
    """
    models = {t: LVLM.load(path, device=settings.device, dtype=settings.dtype) for t, path in checkpoints.items()}
    encoder = next(iter(models.values()))
    absent: dict[str, AbsenceReason] = {}
    sizes: dict[str, tuple[int, int]] = {}
    values: dict[int, dict[str, NDArray[np.float32]]] = {t: {} for t in models}
    num_scored = 0
    for chunk in _encoded_chunks(encoder, examples, load_image, settings.max_length):
        absent.update((one.uid, reason) for one, reason in chunk if reason is not None)
        scored = [one for one, reason in chunk if reason is None]
        sizes.update((one.uid, num_block_tokens(one)) for one in scored)
        for members in token_budget_batches(scored, settings.token_budget):
            batch = encoder.collate(members).to(settings.device)
            for t, lvlm in models.items():
                rows = alignment_values(lvlm, batch, top_k=settings.top_k, checkpoint=t).numpy()
                values[t].update(zip(batch.uids, rows, strict=True))
            num_scored += len(members)
            progress(len(absent) + num_scored, len(examples))
    return {t: _signal(values[t], sizes, absent, settings.top_k) for t in models}


def token_budget_batches(encoded: Sequence[Encoded], token_budget: int) -> Iterator[list[Encoded]]:
    """Batches of similar length whose padded size stays within the budget, longest first, ties by uid."""
    members: list[Encoded] = []
    for one in sorted(encoded, key=lambda one: (-len(one.input_ids), one.uid)):
        if members and (len(members) + 1) * len(members[0].input_ids) > token_budget:
            yield members
            members = []
        members.append(one)
    if members:
        yield members


def _encoded_chunks(
    encoder: LVLM, examples: Sequence[Example], load_image: Callable[[str], Image], max_length: int
) -> Iterator[list[tuple[Encoded, AbsenceReason | None]]]:
    """Encoded examples in the given order, cut into chunks so that pixels of a large partition never pile up."""
    load_once = lru_cache(_NUM_DECODED_IMAGES)(load_image)
    chunk: list[tuple[Encoded, AbsenceReason | None]] = []
    num_bytes = 0
    for example in examples:
        one = encoder.encode(example, [load_once(uri) for uri in example.image_uris], max_length=max_length)
        chunk.append((one, absence_reason(one, example)))
        num_bytes += sum(tensor.nbytes for tensor in one.image_inputs.values())
        if num_bytes >= _CHUNK_BYTES:
            yield chunk
            chunk, num_bytes = [], 0
    if chunk:
        yield chunk


def _signal(
    values: Mapping[str, NDArray[np.float32]],
    sizes: Mapping[str, tuple[int, int]],
    absent: Mapping[str, AbsenceReason],
    top_k: int,
) -> PartitionSignal:
    uids = tuple(sorted(values))
    return PartitionSignal(
        uids=uids,
        values=np.array([values[uid] for uid in uids], dtype=np.float32).reshape(len(uids), top_k),
        num_text_tokens=np.array([sizes[uid][0] for uid in uids], dtype=np.int32),
        num_image_tokens=np.array([sizes[uid][1] for uid in uids], dtype=np.int32),
        absent=tuple(sorted(absent.items())),
    )
