"""Examples on one image share the tokens up to the image's end: their states are computed once.

Owns which examples and which models share, and the two passes. Exact where a model is causal and counts positions from
0, which is looked up in how it calls its decoder, not in a list of families.
Legend: G groups, B examples, P tokens of a prefix, Q tokens behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from xmas_job.extraction.capture import Consumer, Prefix, run_pass
from xmas_job.extraction.spans import num_block_tokens
from xmas_job.models.adapter import LVLM, Encoded


def prefix_length(encoded: Encoded) -> int:
    """P: the tokens up to and with the last image token."""
    return len(encoded.input_ids) - num_block_tokens(encoded)[0]


def prefix_key(encoded: Encoded, image_uris: tuple[str, ...]) -> tuple[object, ...]:
    """Equal for examples that may share: the same images behind the same words."""
    return image_uris, encoded.input_ids[: prefix_length(encoded)].numpy().tobytes()


def has_own_suffix(encoded: Encoded) -> bool:
    """Whether everything the example is asked for lies behind its prefix.

    Not if an answer begins right behind the image: the prefix's last state predicts its first token.
    """
    length = prefix_length(encoded)
    return length < len(encoded.input_ids) and not bool((encoded.labels[: length + 1] >= 0).any())


def can_share(lvlm: LVLM, encoded: Encoded) -> bool:
    """Whether the model lets a prefix be computed on its own, from one example with an image.

    It must call its decoder with embeddings, a plain mask and plain positions. Qwen's positions in three dimensions,
    Gemma's mask that lets image tokens see each other, and attention in windows or chunks are refused.
    """
    config = lvlm.model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    has_window = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    if kinds != {"full_attention"} or (has_window and not getattr(config, "layer_types", None)):
        return False
    arguments = _decoder_arguments(lvlm, encoded)
    if "inputs_embeds" not in arguments:
        return False
    positions = arguments.pop("position_ids", None)
    if positions is not None and not _counts_from_zero(positions):
        return False
    mask = arguments.pop("attention_mask", None)
    if mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2):
        return False
    arguments.pop("inputs_embeds")
    return not any(isinstance(value, Tensor | list | tuple | dict) for value in arguments.values())


@contextmanager
def without_padding_mask(lvlm: LVLM) -> Iterator[None]:
    """No mask tensor reaches the decoder where it only hides padding: on the right of a causal model it hides nothing.

    So the kernels for plainly causal attention are used.
    """

    def drop(_module: object, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        mask, positions = named.get("attention_mask"), named.get("position_ids")
        is_plain = isinstance(mask, Tensor) and mask.ndim == 2 and (positions is None or _counts_from_zero(positions))
        return (arguments, {**named, "attention_mask": None}) if is_plain else None

    hook = lvlm.language_model().register_forward_pre_hook(drop, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def run_shared(lvlm: LVLM, groups: Sequence[Sequence[Encoded]], consumers: Sequence[Consumer]) -> None:
    """One pass over the groups' prefixes, all of one length, and one over what follows them in each example."""
    device = lvlm.device
    length = prefix_length(groups[0][0])
    group_of = torch.tensor([index for index, group in enumerate(groups) for _ in group], device=device)
    prefix, cache = Prefix(group_of), DynamicCache(config=lvlm.model.config.get_text_config())
    heads = lvlm.collate([_cut(group[0], length) for group in groups]).to(device)
    inputs = {**heads.model_inputs, "past_key_values": cache, "use_cache": True}
    run_pass(lvlm, partial(lvlm.model, **inputs), consumers, prefix=prefix, keep=True)

    decoder = lvlm.language_model()
    tails = torch.nn.utils.rnn.pad_sequence(
        [one.input_ids[length:] for group in groups for one in group], batch_first=True
    ).to(device)
    with torch.no_grad():
        embedded = lvlm.model.get_input_embeddings()(tails)
    positions = torch.arange(length, length + tails.shape[1], device=device).expand(len(tails), -1)
    layers = [_SharedLayer(layer, group_of) for layer in cache.layers if layer.is_initialized]
    forward = partial(
        decoder,
        inputs_embeds=embedded,
        position_ids=positions,
        past_key_values=Cache(layers=layers),
        use_cache=True,
    )
    run_pass(lvlm, forward, consumers, prefix=prefix)


class _SharedLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values of the prefixes, handed out by example. It keeps nothing of what comes behind."""

    def __init__(self, prefix: DynamicLayer, group_of: Tensor) -> None:
        super().__init__()
        self.keys, self.values = prefix.keys, prefix.values
        self.is_initialized = True
        self._group_of = group_of

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return (
            torch.cat([self.keys[self._group_of], key_states], dim=-2),
            torch.cat([self.values[self._group_of], value_states], dim=-2),
        )


class _DecoderReachedError(Exception):
    """Leaves the model before its decoder."""


def _decoder_arguments(lvlm: LVLM, encoded: Encoded) -> dict[str, Any]:
    """What the decoder is called with, empty values left out."""
    seen: dict[str, Any] = {}

    def look(_module: object, _arguments: object, named: dict[str, Any]) -> None:
        seen.update({name: value for name, value in named.items() if value is not None})
        raise _DecoderReachedError

    hook = lvlm.language_model().register_forward_pre_hook(look, with_kwargs=True)
    batch = lvlm.collate([encoded]).to(lvlm.device)
    try:
        with torch.no_grad():
            lvlm.model(**batch.model_inputs, use_cache=False)
    except _DecoderReachedError:
        return seen
    finally:
        hook.remove()
    return {}  # a decoder that is not called as a module


def _counts_from_zero(positions: object) -> bool:
    if not isinstance(positions, Tensor) or positions.ndim != 2:
        return False
    return bool((positions == torch.arange(positions.shape[1], device=positions.device)).all())


def _cut(encoded: Encoded, length: int) -> Encoded:
    return replace(
        encoded,
        input_ids=encoded.input_ids[:length],
        labels=encoded.labels[:length],
        image_token_mask=encoded.image_token_mask[:length],
    )
