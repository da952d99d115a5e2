"""The alignment score written again, straight down in float64 numpy, one example at a time, with mistakes to order.

Knows nothing of xmas_job's extraction: it runs a float64 copy of the whole model, keeps every q_proj and k_proj output
and follows the paper's words: concatenated heads, full softmax, text rows, image columns, sum over layers, full SVD.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from xmas_job.models.adapter import LVLM, Encoded

NUM_PADS = 7


@dataclass(frozen=True)
class Mistakes:
    """Each is one way to get the score wrong; all off is the paper's mode."""

    swap_query_and_key: bool = False
    apply_rope: bool = False
    head_scale: bool = False
    causal_mask: bool = False
    count_padding: bool = False
    padding_as_key: bool = False
    interleave_key_heads: bool = False
    drop_bias: bool = False
    skip_last_layer: bool = False
    rows_after_first_image: bool = False


class Reference:
    """A float64 copy of a tiny model."""

    def __init__(self, lvlm: LVLM) -> None:
        self.model = copy.deepcopy(lvlm.model).double().eval()
        self.text = lvlm.model.config.get_text_config()
        self.pad_id = lvlm.processor.tokenizer.pad_token_id
        self.needs_token_types = lvlm.processor.return_mm_token_type_ids

    def values(self, encoded: Encoded, mistakes: Mistakes = Mistakes(), top_k: int = 5) -> np.ndarray:
        """Shape (top_k,): singular values, zeros where the block has fewer."""
        num_pads = NUM_PADS if mistakes.count_padding or mistakes.padding_as_key else 0
        ids = torch.cat([encoded.input_ids, torch.full((num_pads,), self.pad_id)])
        is_image = np.concatenate([encoded.image_token_mask.numpy(), np.zeros(num_pads, dtype=bool)])
        image = np.flatnonzero(is_image)
        first_row = image[-1] + 1
        if mistakes.rows_after_first_image:
            first_row = image[0] + np.flatnonzero(~is_image[image[0] :])[0]
        rows = np.arange(first_row, len(ids) - (num_pads if mistakes.padding_as_key else 0))
        rows = rows[~is_image[rows]]
        block = np.zeros((len(rows), len(image)))
        for query, key in self._projections(ids, is_image, encoded, mistakes):
            attention = self._attention(query, key, mistakes)
            block += attention[np.ix_(rows, image)]
        singular = np.linalg.svd(block, compute_uv=False)[:top_k]
        return np.pad(singular, (0, top_k - len(singular)))

    def _keep_fused(self, kept: dict[tuple[int, str], np.ndarray], index: int, *call: Any) -> None:
        """Phi-3 puts out queries, keys and values in a row."""
        output = call[-1][0].detach().numpy()
        head_width = self.text.hidden_size // self.text.num_attention_heads
        query, key = output[:, : self.text.hidden_size], output[:, self.text.hidden_size :]
        kept[index, "q_proj"] = query
        kept[index, "k_proj"] = key[:, : head_width * self.text.num_key_value_heads]

    def _attention(self, query: np.ndarray, key: np.ndarray, mistakes: Mistakes) -> np.ndarray:
        num_heads, num_key_heads = self.text.num_attention_heads, self.text.num_key_value_heads
        length, width = query.shape
        head_width = width // num_heads
        if mistakes.interleave_key_heads:
            key = np.repeat(key, num_heads // num_key_heads, axis=1)
        else:
            heads = [key[:, h * head_width : (h + 1) * head_width] for h in range(num_key_heads)]
            key = np.concatenate([heads[h // (num_heads // num_key_heads)] for h in range(num_heads)], axis=1)
        if mistakes.apply_rope:
            query, key = _rotate(query, head_width), _rotate(key, head_width)
        if mistakes.swap_query_and_key:
            query, key = key, query
        scores = query @ key.T / np.sqrt(head_width if mistakes.head_scale else width)
        if mistakes.causal_mask:
            scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)

    def _projections(
        self, ids: torch.Tensor, is_image: np.ndarray, encoded: Encoded, mistakes: Mistakes
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        kept: dict[tuple[int, str], np.ndarray] = {}
        hooks = []
        layers = self.model.model.language_model.layers
        for index, layer in enumerate(layers):
            if hasattr(layer.self_attn, "qkv_proj"):
                hooks.append(layer.self_attn.qkv_proj.register_forward_hook(partial(self._keep_fused, kept, index)))
                continue
            for name in ("q_proj", "k_proj"):

                def keep(module: Any, _: Any, output: torch.Tensor, place: tuple[int, str] = (index, name)) -> None:
                    value = output - module.bias if mistakes.drop_bias else output
                    kept[place] = value[0].detach().numpy()

                hooks.append(getattr(layer.self_attn, name).register_forward_hook(keep))
        inputs = {"input_ids": ids[None], "attention_mask": torch.ones_like(ids)[None], **encoded.image_inputs}
        inputs["pixel_values"] = inputs["pixel_values"].double()
        if self.needs_token_types:
            inputs["mm_token_type_ids"] = torch.from_numpy(is_image)[None].long()
        with torch.no_grad():
            self.model(**inputs)
        for hook in hooks:
            hook.remove()
        num_layers = len(layers) - mistakes.skip_last_layer
        return [(kept[index, "q_proj"], kept[index, "k_proj"]) for index in range(num_layers)]


def _rotate(vectors: np.ndarray, head_width: int, theta: float = 10000.0) -> np.ndarray:
    """Rotary embedding by position, halves rotated, head by head."""
    half = head_width // 2
    angles = np.arange(len(vectors))[:, None] / theta ** (np.arange(half) / half)
    rotated = []
    for begin in range(0, vectors.shape[1], head_width):
        first, second = vectors[:, begin : begin + half], vectors[:, begin + half : begin + head_width]
        rotated += [first * np.cos(angles) - second * np.sin(angles), second * np.cos(angles) + first * np.sin(angles)]
    return np.concatenate(rotated, axis=1)
