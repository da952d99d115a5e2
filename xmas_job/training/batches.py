"""What one optimizer step is fed and what it minimises.

Owns the examples in training order, their batches and the loss over answer tokens. Refuses to own the loop (sft).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from xmas_job.data.examples import Example
from xmas_job.errors import BadDataError
from xmas_job.models.adapter import IGNORED_LABEL, LVLM, Encoded

LoadImage = Callable[[str], Image]


class ExamplesInOrder(Dataset[Encoded]):
    """Examples as the training sees them; images are decoded and text encoded when an example is asked for.

    Args:
        order: indices into `examples`, epoch after epoch, as from `training_order`.
        load_image: the RGB image of a URI.
        max_length: tokens an example is cut to on the right, image tokens counted.
    """

    def __init__(
        self, lvlm: LVLM, examples: Sequence[Example], order: Sequence[int], load_image: LoadImage, max_length: int
    ) -> None:
        self._lvlm = lvlm
        self._examples = examples
        self._order = order
        self._load_image = load_image
        self._max_length = max_length

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, position: int) -> Encoded:
        example = self._examples[self._order[position]]
        images = [self._load_image(uri) for uri in example.image_uris]
        return self._lvlm.encode(example, images, max_length=self._max_length)

    def require_an_answer(self) -> None:
        """Look for one example with an answer token; the first has one unless something is wrong.

        Raises:
            BadDataError: no example has an answer token, so that training would learn nothing.
        """
        num_examples = len(self._examples)
        if any(bool((self[position].labels != IGNORED_LABEL).any()) for position in range(num_examples)):
            return
        raise BadDataError(
            f"None of the {num_examples} examples has an answer token within max_length {self._max_length}.",
            "Raise max_length, or look at the assistant turns.",
        )


@dataclass(frozen=True, slots=True)
class Collate:
    """Examples to keyword arguments of the model; a class because data loader workers must be able to take it."""

    lvlm: LVLM

    def __call__(self, encoded: Sequence[Encoded]) -> dict[str, Any]:
        """Keyword arguments with labels; no key-value cache, which training would fill for nothing."""
        batch = self.lvlm.collate(encoded)
        return {**batch.model_inputs, "labels": batch.labels, "use_cache": False}


@dataclass(slots=True)
class AnswerLoss:
    """Cross-entropy over answer tokens; counts what it saw.

    The sum is divided by the answer tokens of the whole optimizer step, so that gradient accumulation does not weigh
    small batches more. A step without any answer token has loss 0 and gradient 0, not the NaN of a mean over nothing.
    """

    num_tokens: int = 0
    num_unsupervised_examples: int = 0

    def __call__(self, outputs: Mapping[str, Tensor], labels: Tensor, num_items_in_batch: Tensor) -> Tensor:
        """The loss of one batch: logits (B, S, vocabulary), labels (B, S), answer tokens of the step ()."""
        targets = labels[:, 1:]
        supervised = targets != IGNORED_LABEL
        num_tokens = supervised.sum(dim=1)
        self.num_tokens += int(num_tokens.sum())
        self.num_unsupervised_examples += int((num_tokens == 0).sum())
        # Only answer rows are made float32: over a whole sequence of a large vocabulary that copy is gigabytes.
        logits = outputs["logits"][:, :-1][supervised].float()
        return cross_entropy(logits, targets[supervised], reduction="sum") / num_items_in_batch.clamp(min=1)
