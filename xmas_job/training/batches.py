"""What one optimizer step is fed and what it minimises.

Owns the examples in training order, their batches and the loss over answer tokens. Refuses to own the loop (sft).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL.Image import Image
from PIL.Image import new as new_image
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from xmas_job.data.examples import Example, Turn
from xmas_job.errors import BadDataError
from xmas_job.models.adapter import IGNORED_LABEL, LVLM, Encoded

LoadImage = Callable[[str], Image]
FILLER, FILLER_SIDE = "filler", 32


class ExamplesInOrder(Dataset[Encoded]):
    """Examples as the training sees them; images are decoded and text encoded when an example is asked for.

    Args:
        order: indices into `examples`, epoch after epoch, as from `training_order`.
        load_image: the RGB image of a URI.
        max_length: tokens an example is cut to on the right, image tokens counted.
    """

    padded_to: int = 1
    """Filled up at the end, with an unlabelled example, to a multiple of what all processes take at once."""
    weights: Mapping[str, float] | None = None
    """Of the examples, by uid; None weighs all of them alike."""

    def __init__(
        self, lvlm: LVLM, examples: Sequence[Example], order: Sequence[int], load_image: LoadImage, max_length: int
    ) -> None:
        self._lvlm = lvlm
        self._examples = examples
        self._order = order
        self._load_image = load_image
        self._max_length = max_length

    @property
    def num_examples(self) -> int:
        """Examples, epochs counted, without what fills up."""
        return len(self._order)

    def __len__(self) -> int:
        return -(-len(self._order) // self.padded_to) * self.padded_to

    def __getitem__(self, position: int) -> Encoded:
        if position >= len(self._order):
            return to_filler(self[len(self._order) - 1])
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
    """Examples to keyword arguments of the model; a class because data loader workers must be able to take it.

    Args:
        lvlm: encodes.
        filler: an example with an image that is added, unlabelled, to every batch without an image. Where processes
            train together, each has to run vision tower and projector at every step: others wait for their weights.
        weights: of the examples, by uid; None weighs all of them alike.
    """

    lvlm: LVLM
    filler: Encoded | None = None
    weights: Mapping[str, float] | None = None

    def __call__(self, encoded: Sequence[Encoded]) -> dict[str, Any]:
        """Keyword arguments with labels; no key-value cache, which training would fill for nothing.

        `num_fillers` () counts rows that are no examples, `num_image_tokens` () image tokens; `example_weights` (B,)
        are there if the examples have any. The loop takes them out.
        """
        rows = list(encoded)
        if self.filler is not None and not any(one.image_inputs for one in rows):
            rows.append(self.filler)
        num_fillers = torch.tensor(sum(one.uid == FILLER for one in rows))
        batch = self.lvlm.collate(rows)
        ours = {"num_fillers": num_fillers, "num_image_tokens": batch.image_token_mask.sum()}
        if self.weights is not None:
            ours["example_weights"] = torch.tensor([1.0 if r.uid == FILLER else self.weights[r.uid] for r in rows])
        return {**batch.model_inputs, "labels": batch.labels, "use_cache": False, **ours}


def to_filler(encoded: Encoded) -> Encoded:
    """The same example without labels: it is computed and teaches nothing."""
    return replace(encoded, uid=FILLER, labels=torch.full_like(encoded.labels, IGNORED_LABEL))


def image_filler(lvlm: LVLM) -> Encoded:
    """A grey picture and a word, unlabelled."""
    example = Example(FILLER, (Turn("user", "", 1), Turn("assistant", "a")), (FILLER,))
    return to_filler(lvlm.encode(example, [new_image("RGB", (FILLER_SIDE, FILLER_SIDE), "grey")]))


def answer_loss(
    outputs: Mapping[str, Tensor], labels: Tensor, num_items_in_batch: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy over the answer tokens of one batch: logits (B, S, vocabulary), labels (B, S).

    The sum is divided by the answer tokens of the whole optimizer step, so that gradient accumulation does not weigh
    small batches more. A step without any answer token has loss 0 and gradient 0, not the NaN of a mean over nothing.

    With `weights` (B,) every answer token counts as often as its example weighs, in the sum and in what divides it
    (`num_answers`): weight 2 is the example twice.
    """
    targets = labels[:, 1:]
    supervised = targets != IGNORED_LABEL
    # Only answer rows are made float32: over a whole sequence of a large vocabulary that copy is gigabytes.
    logits = outputs["logits"][:, :-1][supervised].float()
    count = num_items_in_batch.masked_fill(num_items_in_batch == 0, 1)
    if weights is None:
        return cross_entropy(logits, targets[supervised], reduction="sum") / count
    losses = cross_entropy(logits, targets[supervised], reduction="none")
    return (losses * weights.repeat_interleave(supervised.sum(dim=1))).sum() / count


def num_answers(labels: Tensor, weights: Tensor) -> Tensor:
    """Answer tokens of a batch, each as often as its example weighs: labels (B, S), weights (B,); shape ()."""
    return ((labels[:, 1:] != IGNORED_LABEL).sum(dim=1) * weights).sum()


def counts_of(inputs: Mapping[str, Tensor], num_fillers: Tensor, num_image_tokens: Tensor) -> Tensor:
    """Of one batch, shape (5,): examples, tokens, image tokens, answer tokens, examples without one; on its device."""
    answers = (inputs["labels"][:, 1:] != IGNORED_LABEL).sum(dim=1)
    num_examples = len(answers) - num_fillers
    num_unsupervised = (answers == 0).sum() - num_fillers
    return torch.stack(
        [num_examples, inputs["attention_mask"].sum(), num_image_tokens, answers.sum(), num_unsupervised]
    )
