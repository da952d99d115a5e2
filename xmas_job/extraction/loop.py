"""The extraction loop: one pass over a partition's examples, all checkpoints, all signals.

Owns the order of work and the retreat when memory is short. Refuses to own mathematics, files and image loading.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xmas_job.data.examples import Example
from xmas_job.errors import UsageError
from xmas_job.extraction.answers import ANSWER_SIGNALS
from xmas_job.extraction.batching import PassBatch, Sample, batches_of
from xmas_job.extraction.checkpoints import Checkpoints
from xmas_job.extraction.loading import LoadImage, load_examples
from xmas_job.extraction.prefix import can_share
from xmas_job.extraction.signals import BLOCK_SIGNALS, Request, plain_signals, shared_signals, widths
from xmas_job.extraction.spans import AbsenceReason, block_absence, num_block_tokens
from xmas_job.models.adapter import LVLM, Encoded
from xmas_job.progress import ProgressCallback

# Examples are encoded and sorted by length in chunks of about this many bytes of pixels.
_CHUNK_BYTES = 256 * 2**20


@dataclass(frozen=True)
class ExtractionSettings:
    """What the loop needs beside data.

    Attributes:
        max_length: tokens an example keeps at most, cut on the right.
        request: the signals.
        token_budget: padded tokens a batch holds at most; a longer example is a batch of its own.
        share_prefixes: compute what examples on one image share once, where that is exact.
        dtype: of the weights; scores are float32 always.
        device: where the models run.
        num_loaders: processes that decode and encode ahead of the model.
        steps: signal -> the checkpoints it is wanted at; a signal that is not named is wanted at all of them.
    """

    max_length: int
    request: Request = field(default_factory=Request)
    token_budget: int = 16384
    share_prefixes: bool = True
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    num_loaders: int = 0
    steps: Mapping[str, Collection[int]] = field(default_factory=dict)

    def request_at(self, checkpoint: int) -> Request:
        """The signals that are wanted at a checkpoint."""
        wanted = [name for name in self.request.signals if checkpoint in self.steps.get(name, (checkpoint,))]
        return replace(self.request, signals=tuple(wanted))


@dataclass(frozen=True)
class SignalPart:
    """One signal at one checkpoint over a partition, sorted by uid; N examples that have it.

    Attributes:
        uids: examples with a value.
        values: (N, D) float32; for alignment the singular values, descending.
        num_text_tokens: (N,) int32, text tokens after the last image token.
        num_image_tokens: (N,) int32, image tokens.
    """

    uids: tuple[str, ...]
    values: NDArray[np.float32]
    num_text_tokens: NDArray[np.int32]
    num_image_tokens: NDArray[np.int32]


@dataclass(frozen=True)
class PartitionSignals:
    """All of a partition.

    Attributes:
        parts: by signal, then checkpoint.
        absent: by signal, the other examples as (uid, reason), sorted.
        num_splits: batches that were cut in two because memory was short; the last bits of values may depend on it.
    """

    parts: Mapping[str, Mapping[int, SignalPart]]
    absent: Mapping[str, tuple[tuple[str, AbsenceReason], ...]]
    num_splits: int


def extract_partition(
    folders: Mapping[int, Path],
    examples: Sequence[Example],
    load_image: LoadImage,
    settings: ExtractionSettings,
    progress: ProgressCallback,
) -> PartitionSignals:
    """Every signal of every example at its checkpoints; images are decoded and encoded once.

    Args:
        folders: model directories by checkpoint index t; they share one processor.
        examples: the partition; examples of one image are expected next to each other.
        load_image: an RGB image from its URI.
        settings: see `ExtractionSettings`.
        progress: told how many of the partition's examples are done, absent ones included.

    Raises:
        UsageError: a model whose attention cannot be looked into, or a signal that does not fit it.
        BadDataError: a checkpoint that is broken or unlike the first, an image that changed, a value that is not
            finite; the message names the file.
    """
    run = _Run(Checkpoints(folders, device=settings.device, dtype=settings.dtype), settings)
    num_done = 0
    loaded = load_examples(
        run.checkpoints.first.encoder,
        examples,
        load_image,
        max_length=settings.max_length,
        num_processes=settings.num_loaders,
    )
    chunk: list[Sample] = []
    num_bytes = 0
    for one in loaded:
        run.note_absence(one.example, one.encoded)
        if one.encoded is not None:
            chunk.append(Sample(one.encoded, one.example.image_uris))
            num_bytes += sum(tensor.nbytes for tensor in one.encoded.image_inputs.values())
        else:
            num_done += 1
        if num_bytes >= _CHUNK_BYTES:
            num_done = run.chunk(chunk, progress, num_done, len(examples))
            chunk, num_bytes = [], 0
    num_done = run.chunk(chunk, progress, num_done, len(examples))
    progress(num_done, len(examples))
    return run.result()


class _Run:
    """What has been computed so far."""

    def __init__(self, checkpoints: Checkpoints, settings: ExtractionSettings) -> None:
        self.checkpoints = checkpoints
        self._settings = settings
        self._signals = settings.request.signals
        self._absent: dict[str, dict[str, AbsenceReason]] = {name: {} for name in self._signals}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._requests = {t: settings.request_at(t) for t in checkpoints}
        self._values: dict[str, dict[int, dict[str, NDArray[np.float32]]]] = {
            name: {t: {} for t in checkpoints if name in self._requests[t].signals} for name in self._signals
        }
        self._num_splits = 0
        self._shares: bool | None = None

    def note_absence(self, example: Example, encoded: Encoded | None) -> None:
        """Which signals the example cannot have, and why."""
        if encoded is None:
            for name in self._signals:
                self._absent[name][example.uid] = "cannot_encode"
            return
        no_block = block_absence(encoded, example)
        has_answer = bool((encoded.labels[1:] >= 0).any())
        for name in self._signals:
            if name in BLOCK_SIGNALS and no_block is not None:
                self._absent[name][example.uid] = no_block
            elif name in ANSWER_SIGNALS and not has_answer:
                self._absent[name][example.uid] = "no_answer_after_truncation"
        self._sizes[example.uid] = num_block_tokens(encoded)

    def chunk(self, samples: Sequence[Sample], progress: ProgressCallback, num_done: int, num_examples: int) -> int:
        """Compute what the chunk's examples have; the number of examples that are done then."""
        batches = list(batches_of(samples, self._settings.token_budget, share=self._sharing(samples)))
        # Resident models take turns at every batch, swapped ones at every chunk.
        turns = [[number] for number in range(len(batches))] if self.checkpoints.is_resident else [range(len(batches))]
        for turn in turns:
            for t in self.checkpoints:
                with self.checkpoints.on_device(t) as lvlm:
                    for number in turn:
                        self.checkpoints.batch(number)
                        self._compute(lvlm, t, batches[number])
            self.checkpoints.forget()
            num_done += sum(len(batches[number].members) for number in turn)
            progress(num_done, num_examples)
        return num_done

    def result(self) -> PartitionSignals:
        """Everything, sorted by uid."""
        width_of = widths(self._settings.request, self.checkpoints.first)
        return PartitionSignals(
            parts={
                name: {t: self._part(values, width_of[name]) for t, values in by_checkpoint.items()}
                for name, by_checkpoint in self._values.items()
            },
            absent={name: tuple(sorted(reasons.items())) for name, reasons in self._absent.items()},
            num_splits=self._num_splits,
        )

    def _sharing(self, samples: Sequence[Sample]) -> bool:
        """Whether prefixes are shared: asked for, no signal against it, and the model lets it."""
        if self._shares is None:
            probe = next((sample.encoded for sample in samples if sample.kind[0]), None)
            if probe is None or not (self._settings.share_prefixes and self._settings.request.allows_sharing):
                return False
            self.checkpoints.batch("probe")
            with self.checkpoints.on_device(next(iter(self.checkpoints))) as lvlm:
                self._shares = can_share(lvlm, probe)
            self.checkpoints.forget()
        return self._shares

    def _compute(self, lvlm: LVLM, checkpoint: int, batch: PassBatch) -> None:
        has_block, has_answer = batch.kind
        request = self._requests[checkpoint].of(with_block=has_block, with_answer=has_answer)
        if not request.signals:
            return
        for part, values in self._with_retreat(batch, lambda part: self._pass(lvlm, part, request, checkpoint)):
            for name, rows in values.items():
                by_uid = zip((one.uid for one in part.members), rows.numpy(), strict=True)
                self._values[name][checkpoint].update(by_uid)

    def _pass(self, lvlm: LVLM, batch: PassBatch, request: Request, checkpoint: int) -> dict[str, Tensor]:
        where = self.checkpoints.where(checkpoint)
        if batch.is_shared:
            return shared_signals(lvlm, batch.groups, request, where=where)
        return plain_signals(lvlm, batch.members, request, where=where)

    def _with_retreat(
        self, batch: PassBatch, compute: Callable[[PassBatch], dict[str, Tensor]]
    ) -> Iterator[tuple[PassBatch, dict[str, Tensor]]]:
        """The batch in one piece, or in halves where memory does not hold it."""
        try:
            values = compute(batch)
        except torch.OutOfMemoryError:
            values = None  # outside of the handler: the traceback keeps the tensors alive
        if values is not None:
            yield batch, values
            return
        halves = batch.halves()
        if halves is None:
            raise UsageError(
                f"The device's memory does not hold one example of {len(batch.members[0].input_ids)} tokens.",
                "Lower extract.max_length, or take a larger device.",
            )
        torch.cuda.empty_cache()
        self.checkpoints.batch(object())  # other inputs than the whole batch's
        self._num_splits += 1
        for half in halves:
            yield from self._with_retreat(half, compute)

    def _part(self, values: Mapping[str, NDArray[np.float32]], width: int) -> SignalPart:
        uids = tuple(sorted(values))
        if len({len(values[uid]) for uid in uids}) > 1:
            raise UsageError(
                "leading_vector has as many entries as an example has image tokens, and these differ.",
                "Set extract.alignment.score to singular_values, or take a proxy without tiles.",
            )
        return SignalPart(
            uids=uids,
            values=np.stack([values[uid] for uid in uids]) if uids else np.zeros((0, width), dtype=np.float32),
            num_text_tokens=np.array([self._sizes[uid][0] for uid in uids], dtype=np.int32),
            num_image_tokens=np.array([self._sizes[uid][1] for uid in uids], dtype=np.int32),
        )
