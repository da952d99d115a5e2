"""Frozen features of a dual encoder: one unit vector for the image and one for the human turns of each example.

Owns the encoder and what is read of an example. Any transformers model with get_image_features and get_text_features
serves (CLIP, SigLIP, ...). Refuses to own what is made of the features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModel, AutoProcessor

from xmas_job.data.examples import Example
from xmas_job.data.stored import LoadImage
from xmas_job.errors import BadDataError, UsageError
from xmas_job.progress import ProgressCallback

# B examples of a batch, d dimension of one half

TEXT_ONLY = "text_only"
NO_HUMAN_TEXT = "no_human_text"
ROLES = {"user": "USER", "assistant": "ASSISTANT", "system": "SYSTEM"}


@dataclass(frozen=True)
class DualFeatures:
    """Of the examples that have them, in the order given."""

    uids: tuple[str, ...]
    joint: NDArray[np.float32]
    """Shape (M, 2d): the unit vector of [image; human turns], both halves of one length."""
    agreement: NDArray[np.float32]
    """Shape (M,): cosine of the image and the whole conversation, the CLIP-Score."""
    absent: tuple[tuple[str, str], ...]
    """(uid, reason) of the others."""


class DualEncoder:
    """An image and a text encoder with one space.

    Texts are cut at the encoder's length and padded to it, so that a feature does not depend on the batch.
    """

    def __init__(self, model: Any, processor: Any, device: str = "cpu") -> None:
        self._model: Any = model.to(device).eval().requires_grad_(requires_grad=False)
        self._processor = processor
        self._device = device
        text = model.config.get_text_config()
        self._max_length = int(text.max_position_embeddings)

    @classmethod
    def load(cls, folder: Path, *, device: str, dtype: torch.dtype) -> DualEncoder:
        """The encoder of a transformers folder.

        Raises:
            UsageError: if the folder holds no dual encoder.
        """
        try:
            model = AutoModel.from_pretrained(folder, dtype=dtype, local_files_only=True)
            processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise UsageError(f"{folder} holds no dual encoder: {error}.", "Give the folder of a CLIP model.") from error
        if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
            raise UsageError(
                f"{folder} holds a {type(model).__name__}, which encodes no images and texts into one space.",
                "Give the folder of a CLIP or SigLIP model.",
            )
        return cls(model, processor, device)

    @property
    def width(self) -> int:
        """d, of the space."""
        return self.texts([""]).shape[1]

    def images(self, pictures: Sequence[Any]) -> Tensor:
        """Unit vectors (B, d), float32."""
        inputs = self._processor.image_processor(images=list(pictures), return_tensors="pt")
        pixels = inputs["pixel_values"].to(self._device, self._model.dtype)
        return _unit(_features(self._model.get_image_features(pixel_values=pixels)))

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (B, d), float32."""
        inputs = self._processor.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self._max_length, return_tensors="pt"
        )
        return _unit(_features(self._model.get_text_features(**inputs.to(self._device))))


def encode_examples(
    encoder: DualEncoder,
    examples: Sequence[Example],
    load_image: LoadImage,
    *,
    batch_size: int,
    on_progress: ProgressCallback = lambda _done, _total: None,
) -> DualFeatures:
    """Features of the examples with an image and a question.

    Source: OFA's feature extraction: every human turn encoded, normalised, averaged over turns and normalised again.
    CLIP-Score: Self-Filter's text, "USER: q ASSISTANT: a ...". Choice: several images of one example are averaged
    and normalised again, as the turns are.

    Raises:
        BadDataError: if a feature is not finite.
    """
    absent = tuple((one.uid, reason) for one in examples if (reason := _absence(one)))
    present = [one for one in examples if _absence(one) is None]
    joints, agreements = [], []
    with torch.inference_mode():
        for start in range(0, len(present), batch_size):
            batch = present[start : start + batch_size]
            pictures = [[load_image(uri) for uri in one.image_uris] for one in batch]
            image = _averaged(pictures, encoder.images)
            text = _averaged([_human_turns(one) for one in batch], encoder.texts)
            whole = encoder.texts([_conversation(one) for one in batch])
            joints.append(_unit(torch.cat([image, text], dim=1)))
            agreements.append((image * whole).sum(dim=1))
            on_progress(len(absent) + start + len(batch), len(examples))
        joint = torch.cat(joints).numpy() if joints else np.empty((0, 2 * encoder.width), dtype=np.float32)
    agreement = torch.cat(agreements).numpy() if agreements else np.empty(0, dtype=np.float32)
    is_broken = ~np.isfinite(joint).all(axis=1) | ~np.isfinite(agreement)
    if is_broken.any():
        raise BadDataError(
            f"the features of {present[int(is_broken.argmax())].uid} are not finite.", "Look at the encoder's weights."
        )
    return DualFeatures(tuple(one.uid for one in present), joint, agreement, absent)


def _absence(example: Example) -> str | None:
    if not example.image_uris:
        return TEXT_ONLY
    return None if _human_turns(example) else NO_HUMAN_TEXT


def _human_turns(example: Example) -> list[str]:
    return [turn.text for turn in example.turns if turn.role == "user" and turn.text]


def _conversation(example: Example) -> str:
    return " ".join(f"{ROLES[turn.role]}: {turn.text}" for turn in example.turns)


def _averaged(parts: Sequence[Sequence[Any]], encode: Any) -> Tensor:
    """One unit vector for each list of parts, all encoded in one batch."""
    features = encode([one for some in parts for one in some])
    return torch.cat(list(_means(features, [len(some) for some in parts])))


def _means(features: Tensor, lengths: Sequence[int]) -> Iterator[Tensor]:
    for own in torch.split(features, list(lengths)):
        yield _unit(own.mean(dim=0, keepdim=True))


def _unit(features: Tensor) -> Tensor:
    return nn.functional.normalize(features.float(), dim=1).cpu()


def _features(output: Any) -> Tensor:
    """The projected vectors: transformers 5 wraps them, models of one's own may not."""
    features: Tensor = getattr(output, "pooler_output", output)
    return features
