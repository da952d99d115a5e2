"""From a conversation to token ids: chat template, answer labels, image placeholders, truncation, batches.

Owns where answers and image tokens stand. Refuses to own weights (adapter.py) and where images come from.
Legend: S tokens of one example, B batch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from xmas_job.data.examples import Example, Turn
from xmas_job.errors import BadDataError

IGNORED_LABEL = -100
# What the processor returns beside the inputs that belong to the images.
_TEXT_OUTPUTS = frozenset(
    {
        "input_ids",
        "attention_mask",
        "token_type_ids",
        "mm_token_type_ids",
        "offset_mapping",
        "text_replacement_offsets",
    }
)


@dataclass(frozen=True)
class Encoded:
    """One example as token ids, unpadded, on the CPU.

    `input_ids` (S,) long with image placeholders expanded; `labels` (S,) long, `IGNORED_LABEL` except on answer tokens
    and the token that ends an answer; `image_token_mask` (S,) bool; `image_inputs` as the processor returns them.
    """

    uid: str
    input_ids: Tensor
    labels: Tensor
    image_token_mask: Tensor
    image_inputs: Mapping[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """Examples padded to one length, ready for `model(**batch.model_inputs, labels=batch.labels)`.

    `labels` (B, S), `image_token_mask` (B, S) bool, `lengths` (B,) real tokens an example.
    """

    uids: tuple[str, ...]
    model_inputs: dict[str, Tensor]
    labels: Tensor
    image_token_mask: Tensor
    lengths: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return replace(
            self,
            model_inputs={name: tensor.to(device) for name, tensor in self.model_inputs.items()},
            labels=self.labels.to(device),
            image_token_mask=self.image_token_mask.to(device),
            lengths=self.lengths.to(device),
        )


@dataclass(frozen=True)
class _Rendered:
    """A conversation as the template writes it; `answers` are character spans, each with its end-of-turn token."""

    text: str
    answers: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class _Tokens:
    """One rendered text through the processor; spans are characters of the text after placeholder expansion."""

    ids: NDArray[np.int64]  # (S,)
    offsets: NDArray[np.int64]  # (S, 2)
    images: tuple[tuple[int, int], ...]  # each image's span of placeholders
    answers: tuple[tuple[int, int], ...]
    image_inputs: Mapping[str, Tensor]


class ConversationEncoder:
    """Encodes conversations with one processor. Answer spans are found in characters, then in tokens by offsets."""

    def __init__(self, processor: Any, image_token_id: int, stop_token_ids: frozenset[int]) -> None:
        self._processor = processor
        self._tokenizer = processor.tokenizer
        self._image_token_id = image_token_id
        self._image_token: str = processor.image_token
        stop_tokens = self._tokenizer.convert_ids_to_tokens(sorted(stop_token_ids))
        self._ends_answer = re.compile(r"\s*(?:" + "|".join(map(re.escape, stop_tokens)) + ")")

    def encode(self, example: Example, images: Sequence[Image], *, max_length: int | None = None) -> Encoded:
        """The whole conversation, teacher-forced, cut on the right to `max_length` tokens.

        An image that the cut goes through is dropped whole, with the cut moved before it: a model cannot take a part
        of an image's placeholders.

        Raises:
            BadDataError: images and turns disagree, or the template cannot be masked.
        """
        _check_images(example, images)
        tokens = self._tokenise(example, self._render_answers(example), images)
        length, num_kept = _cut(tokens, max_length)
        image_inputs = tokens.image_inputs if num_kept == len(images) else self._image_inputs(images[:num_kept])
        ids = torch.from_numpy(tokens.ids[:length])
        labels = torch.where(torch.from_numpy(_answer_mask(tokens, example.uid)[:length]), ids, IGNORED_LABEL)
        return Encoded(example.uid, ids, labels, ids == self._image_token_id, image_inputs)

    def encode_prompt(self, example: Example, images: Sequence[Image]) -> Encoded:
        """Everything before the last assistant turn, and the template's generation prompt; no labels.

        Raises:
            BadDataError: there is no assistant turn, or images and turns disagree.
        """
        _check_images(example, images)
        turns = example.turns[: last_answer_index(example)]
        images = images[: sum(turn.num_images for turn in turns)]
        tokens = self._tokenise(example, _Rendered(self._render(turns, add_generation_prompt=True)), images)
        ids = torch.from_numpy(tokens.ids)
        labels = torch.full_like(ids, IGNORED_LABEL)
        return Encoded(example.uid, ids, labels, ids == self._image_token_id, tokens.image_inputs)

    def collate(self, encoded: Sequence[Encoded], *, padding_side: Literal["right", "left"] = "right") -> Batch:
        """Pad to the longest; image inputs are concatenated in example order."""
        pad_id = self._tokenizer.pad_token_id
        pad_id = self._tokenizer.eos_token_id if pad_id is None else pad_id

        def pad(tensors: list[Tensor], value: float) -> Tensor:
            return torch.nn.utils.rnn.pad_sequence(
                tensors, batch_first=True, padding_value=value, padding_side=padding_side
            )

        image_token_mask = pad([one.image_token_mask for one in encoded], 0)
        model_inputs = {
            "input_ids": pad([one.input_ids for one in encoded], pad_id),
            "attention_mask": pad([torch.ones_like(one.input_ids) for one in encoded], 0),
        }
        if self._processor.return_mm_token_type_ids:
            # Gemma 3 takes them under the older name: its image tokens see each other.
            is_older = "token_type_ids" in self._processor.model_input_names
            model_inputs["token_type_ids" if is_older else "mm_token_type_ids"] = image_token_mask.long()
        for name in sorted({name for one in encoded for name in one.image_inputs}):
            model_inputs[name] = _concatenated([one.image_inputs[name] for one in encoded if one.image_inputs])
        return Batch(
            uids=tuple(one.uid for one in encoded),
            model_inputs=model_inputs,
            labels=pad([one.labels for one in encoded], IGNORED_LABEL),
            image_token_mask=image_token_mask,
            lengths=torch.tensor([len(one.input_ids) for one in encoded]),
        )

    def check_template(self) -> None:
        """Mask a probe conversation and decode its labels.

        Raises:
            BadDataError: the labels are not the answers, or a prompt is not how its conversation begins.
        """
        answers = ("Red.", "Yes")
        first = (Turn("user", "Which colour?"), Turn("assistant", answers[0]))
        second = (Turn("user", "Sure?"), Turn("assistant", answers[1]))
        probe = Example(uid="template probe", turns=first + second)
        whole, prompt = self.encode(probe, []), self.encode_prompt(probe, [])
        labelled = self._squeezed(whole.labels[whole.labels != IGNORED_LABEL])
        expected = "".join(self._squeezed(self._tokenizer.encode(answer)) for answer in answers)
        if labelled != expected:
            raise _cannot_mask(probe.uid, f"the labels decode to {labelled!r} instead of {expected!r}")
        if not torch.equal(whole.input_ids[: len(prompt.input_ids)], prompt.input_ids):
            raise _cannot_mask(probe.uid, "the tokens of a prompt are not the first tokens of its conversation")

    def _squeezed(self, ids: Tensor | list[int]) -> str:
        return "".join(self._tokenizer.decode(ids, skip_special_tokens=True).split())

    def _render(self, turns: Sequence[Turn], *, add_generation_prompt: bool = False) -> str:
        messages = [
            {
                "role": turn.role,
                "content": [{"type": "image"}] * turn.num_images + [{"type": "text", "text": turn.text}],
            }
            for turn in turns
        ]
        return str(self._processor.apply_chat_template(messages, add_generation_prompt=add_generation_prompt))

    def _render_answers(self, example: Example) -> _Rendered:
        text = self._render(example.turns)
        answers = []
        for index, turn in enumerate(example.turns):
            if turn.role != "assistant":
                continue
            prompt = self._render(example.turns[:index], add_generation_prompt=True)
            if not text.startswith(prompt):
                raise _cannot_mask(example.uid, f"turn {index} does not begin with the template's generation prompt")
            begin = text.find(turn.text, len(prompt))
            if begin < 0 or text[len(prompt) : begin].strip():
                raise _cannot_mask(example.uid, f"turn {index} is not the generation prompt and then the turn's text")
            end = begin + len(turn.text)
            stop = self._ends_answer.match(text, end)
            if stop is None and index == len(example.turns) - 1:
                # Choice: llava-hf's template ends no answer; without a stop token the target would never learn to stop.
                text = text[:end] + self._tokenizer.eos_token
                stop = self._ends_answer.match(text, end)
            answers.append((len(prompt), stop.end() if stop else end))
        return _Rendered(text, tuple(answers))

    def _tokenise(self, example: Example, rendered: _Rendered, images: Sequence[Image]) -> _Tokens:
        if rendered.text.count(self._image_token) != len(images):
            raise BadDataError(
                f"Example {example.uid}: the rendered conversation holds {rendered.text.count(self._image_token)} "
                f"{self._image_token!r} for {len(images)} images.",
                "Take the placeholder out of the example's text, or give the template one for every image.",
            )
        bos = self._tokenizer.bos_token
        out = self._processor(
            text=[rendered.text],
            images=list(images) or None,
            # As transformers does: a template that writes the first token itself gets no second one.
            add_special_tokens=not (bos is not None and rendered.text.startswith(bos)),
            return_offsets_mapping=True,
            return_text_replacement_offsets=True,
        )
        replacements = [part for part in out["text_replacement_offsets"][0] if part["type"] == "image"]
        return _Tokens(
            ids=np.asarray(out["input_ids"][0], dtype=np.int64),
            offsets=np.asarray(out["offset_mapping"][0], dtype=np.int64).reshape(-1, 2),
            images=tuple(part["new_span"] for part in replacements),
            answers=tuple(
                (_shifted(begin, replacements), _shifted(end, replacements)) for begin, end in rendered.answers
            ),
            image_inputs={name: _as_tensor(value) for name, value in out.items() if name not in _TEXT_OUTPUTS},
        )

    def _image_inputs(self, images: Sequence[Image]) -> Mapping[str, Tensor]:
        if not images:
            return {}
        out = self._processor.image_processor(list(images))
        return {
            name: _as_tensor(value) for name, value in out.items() if name not in self._processor.unused_input_names
        }


def _concatenated(tensors: Sequence[Tensor]) -> Tensor:
    """Along the first dimension; others are padded with zeros: families with tiles pad the fewer tiles so."""
    sizes = [max(tensor.shape[dim] for tensor in tensors) for dim in range(1, tensors[0].ndim)]
    padded = []
    for tensor in tensors:
        missing = [size - have for size, have in zip(sizes, tensor.shape[1:], strict=True)]
        padded.append(torch.nn.functional.pad(tensor, [pad for one in reversed(missing) for pad in (0, one)]))
    return torch.cat(padded)


def last_answer_index(example: Example) -> int:
    """Index of the last assistant turn.

    Raises:
        BadDataError: there is none.
    """
    indices = [index for index, turn in enumerate(example.turns) if turn.role == "assistant"]
    if not indices:
        raise BadDataError(f"Example {example.uid} has no assistant turn.", "Leave it out: there is nothing to answer.")
    return indices[-1]


def _check_images(example: Example, images: Sequence[Image]) -> None:
    num_shown = sum(turn.num_images for turn in example.turns)
    if num_shown != len(images):
        raise BadDataError(
            f"Example {example.uid} shows {num_shown} images in its turns but {len(images)} were given.",
            "Run ingest again: it quarantines examples whose placeholders and images disagree.",
        )


def _cannot_mask(uid: str, why: str) -> BadDataError:
    return BadDataError(
        f"Example {uid}: the chat template cannot be masked: {why}.",
        "Mend chat_template.jinja in the model directory; training on it would learn the prompt or nothing.",
    )


def _cut(tokens: _Tokens, max_length: int | None) -> tuple[int, int]:
    """Tokens and images that stay under right truncation; an image stays whole or not at all."""
    if max_length is None or len(tokens.ids) <= max_length:
        return len(tokens.ids), len(tokens.images)
    for index, (begin, end) in enumerate(tokens.images):
        inside = np.flatnonzero((tokens.offsets[:, 0] >= begin) & (tokens.offsets[:, 1] <= end) & _is_text(tokens))
        if inside[-1] >= max_length:
            return min(max_length, int(inside[0])), index
    return max_length, len(tokens.images)


def _answer_mask(tokens: _Tokens, uid: str) -> NDArray[np.bool_]:
    """Shape (S,): a token belongs to an answer if its first character does."""
    begins, ends = tokens.offsets.T
    mask = np.zeros(len(tokens.ids), dtype=np.bool_)
    for begin, end in tokens.answers:
        if np.any((begins < begin) & (begin < ends)):
            raise _cannot_mask(uid, "a token spans the generation prompt's end and the answer's beginning")
        mask |= (begin <= begins) & (begins < end) & _is_text(tokens)
    return mask


def _is_text(tokens: _Tokens) -> NDArray[np.bool_]:
    """Shape (S,): false for tokens that the tokenizer adds outside the text (offset 0:0)."""
    return np.asarray(tokens.offsets[:, 1] > tokens.offsets[:, 0])


def _shifted(position: int, replacements: Sequence[Mapping[str, Any]]) -> int:
    """A character position of the rendered text after its placeholders were expanded."""
    before = [part for part in replacements if part["span"][1] <= position]
    return position + sum(len(part["replacement"]) - len(part["text"]) for part in before)


def _as_tensor(value: Any) -> Tensor:
    return torch.from_numpy(np.stack(value) if isinstance(value, list) else np.ascontiguousarray(value))
