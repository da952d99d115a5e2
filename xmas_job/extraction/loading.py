"""Examples on their way to the model: images decoded, conversations encoded, in this process or in others.

Owns the order, which is that of the examples whatever the number of processes. Refuses to own batches.
"""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import structlog
import torch
from PIL.Image import Image
from torch.utils.data import DataLoader, Dataset

from xmas_job.data.examples import Example
from xmas_job.errors import BadDataError, XmasError
from xmas_job.models.adapter import Encoded
from xmas_job.models.encoding import ConversationEncoder

# A partition keeps the examples of one image together, so a few decoded images are enough.
_NUM_DECODED_IMAGES = 8
_EXAMPLES_A_TASK = 16

LoadImage = Callable[[str], Image]


@dataclass(frozen=True)
class Loaded:
    """An example, and its tokens, or why it could not be encoded."""

    example: Example
    encoded: Encoded | None
    problem: str = ""


class _Encoding(Dataset[list[Loaded]]):
    """Tasks of a few neighbours, so that one process decodes what they share."""

    def __init__(
        self, encoder: ConversationEncoder, examples: Sequence[Example], load_image: LoadImage, max_length: int
    ) -> None:
        self._encoder = encoder
        self._examples = examples
        self._load_image = load_image
        self._max_length = max_length
        self._decoded: LoadImage | None = None  # made where it is used: it cannot be sent to another process

    def __len__(self) -> int:
        return (len(self._examples) + _EXAMPLES_A_TASK - 1) // _EXAMPLES_A_TASK

    def __getitem__(self, index: int) -> list[Loaded]:
        if self._decoded is None:
            self._decoded = lru_cache(_NUM_DECODED_IMAGES)(self._load_image)
        start = index * _EXAMPLES_A_TASK
        return [self._load(example) for example in self._examples[start : start + _EXAMPLES_A_TASK]]

    def _load(self, example: Example) -> Loaded:
        assert self._decoded is not None
        images = [self._decoded(uri) for uri in example.image_uris]  # an image that is lost stops the partition
        try:
            return Loaded(example, self._encoder.encode(example, images, max_length=self._max_length))
        except (BadDataError, ValueError) as error:  # processors refuse extreme shapes with ValueError
            return Loaded(example, None, str(error))


class _Packed(Dataset[bytes]):
    """Tasks as bytes: a tensor that is sent as it is holds a file open, and shared memory, for as long as it lives."""

    def __init__(self, tasks: _Encoding) -> None:
        self._tasks = tasks

    def __len__(self) -> int:
        return len(self._tasks)

    def __getitem__(self, index: int) -> bytes:
        try:
            return pickle.dumps(self._tasks[index])
        except XmasError as error:
            return pickle.dumps(error)  # raised here it would arrive as a traceback in one message


def _unpacked(packed: bytes) -> list[Loaded]:
    task: list[Loaded] | XmasError = pickle.loads(packed)  # noqa: S301 - of our own processes
    if isinstance(task, XmasError):
        raise task
    return task


def load_examples(
    encoder: ConversationEncoder,
    examples: Sequence[Example],
    load_image: LoadImage,
    *,
    max_length: int,
    num_processes: int = 0,
) -> Iterator[Loaded]:
    """Encoded examples in the given order; the values do not depend on the number of processes.

    Args:
        encoder: of the proxy.
        examples: examples of one image are expected next to each other.
        load_image: an RGB image from its URI; sent to the other processes.
        max_length: tokens an example keeps.
        num_processes: that load ahead of the model; 0 loads here, when asked.

    Raises:
        BadDataError: an image is not what was ingested.
    """
    tasks = _Encoding(encoder, examples, load_image, max_length)
    if num_processes == 0:
        return _noted(tasks[index] for index in range(len(tasks)))
    loader = DataLoader(
        _Packed(tasks),
        batch_size=None,
        num_workers=num_processes,
        # A forked process would inherit the device.
        multiprocessing_context="spawn",
        worker_init_fn=_one_thread,
        prefetch_factor=4,
    )
    return _noted(map(_unpacked, loader))


def _noted(tasks: Iterable[list[Loaded]]) -> Iterator[Loaded]:
    """One by one; what could not be encoded is logged here, where the log is set up."""
    for one in itertools.chain.from_iterable(tasks):
        if one.encoded is None:
            structlog.get_logger().warning("cannot_encode", uid=one.example.uid, error=one.problem)
        yield one


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)
