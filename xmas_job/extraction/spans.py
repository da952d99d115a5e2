"""Where the tokens of a batch's examples stand, as index tensors, and why an example has no such place.

Owns positions. Legend: B batch, S tokens, T text rows, V image columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from xmas_job.data.examples import Example
from xmas_job.models.adapter import Encoded

AbsenceReason = Literal[
    "text_only",
    "no_image_after_truncation",
    "no_text_after_image",
    "no_answer_after_truncation",
    "cannot_encode",
]


def block_absence(encoded: Encoded, example: Example) -> AbsenceReason | None:
    """Why the example has no cross-modal block, or None if it has one."""
    if example.modality == "text":
        return "text_only"
    if not encoded.image_token_mask.any():
        return "no_image_after_truncation"
    if encoded.image_token_mask[-1]:
        return "no_text_after_image"
    return None


def num_block_tokens(encoded: Encoded) -> tuple[int, int]:
    """T and V: text tokens after the last image token, and image tokens. Without an image all tokens are text."""
    positions = encoded.image_token_mask.nonzero()[:, 0]
    first_text = int(positions[-1]) + 1 if len(positions) else 0
    return len(encoded.input_ids) - first_text, len(positions)


@dataclass(frozen=True)
class Positions:
    """A ragged set of positions an example, padded: `index` (B, n) long, `is_there` (B, n) bool."""

    index: Tensor
    is_there: Tensor

    @classmethod
    def of(cls, ragged: Sequence[Tensor], device: torch.device | str) -> Positions:
        """From one (n,) tensor an example."""
        index = torch.nn.utils.rnn.pad_sequence(list(ragged), batch_first=True)
        lengths = torch.tensor([len(one) for one in ragged])
        return cls(index.to(device), (torch.arange(index.shape[1]) < lengths[:, None]).to(device))

    @property
    def counts(self) -> Tensor:
        """Shape (B,)."""
        return self.is_there.sum(dim=1)

    def take(self, tensor: Tensor, offset: int = 0) -> Tensor:
        """Shape (B, n, D): tokens of `tensor` (B, S, D), which starts at position `offset`; padding is arbitrary."""
        index = (self.index - offset).clamp(min=0)
        return torch.take_along_dim(tensor, index[..., None], dim=1)

    def mean(self, tensor: Tensor) -> Tensor:
        """Shape (B, D) float32: mean over each example's positions of `tensor` (B, S, D)."""
        taken = self.take(tensor).float() * self.is_there[..., None]
        return taken.sum(dim=1) / self.counts[:, None]


@dataclass(frozen=True)
class Spans:
    """Positions of every example of a batch, counted from its first token, a shared prefix included.

    `real` everything but padding; `text` tokens after the last image token; `image` image tokens; `answer` labelled
    tokens; `answer_ids` (B, n) their ids; `offset` tokens of the shared prefix, 0 without.
    """

    real: Positions
    text: Positions
    image: Positions
    answer: Positions
    answer_ids: Tensor
    offset: int = 0

    @classmethod
    def of(cls, encoded: Sequence[Encoded], device: torch.device | str, offset: int = 0) -> Spans:
        """From whole examples."""
        lengths = [len(one.input_ids) for one in encoded]
        num_text = [num_block_tokens(one)[0] for one in encoded]
        answers = [(one.labels >= 0).nonzero()[:, 0] for one in encoded]
        ids = [one.labels[answer] for one, answer in zip(encoded, answers, strict=True)]
        return cls(
            real=Positions.of([torch.arange(length) for length in lengths], device),
            text=Positions.of(
                [torch.arange(length - num, length) for length, num in zip(lengths, num_text, strict=True)], device
            ),
            image=Positions.of([one.image_token_mask.nonzero()[:, 0] for one in encoded], device),
            answer=Positions.of(answers, device),
            answer_ids=torch.nn.utils.rnn.pad_sequence(ids, batch_first=True).to(device),
            offset=offset,
        )
