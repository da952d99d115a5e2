"""Cross-modal alignment of one checkpoint: the top singular values of the text-to-image attention, exactly.

Owns the paper's mode (arXiv 2510.01454, eq. 4, def. 4.1, app. C). Refuses to own batching and checkpoints (loop.py).
Legend: B batch, S tokens, T text rows after the last image token, V image columns, D query width, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from xmas_job.data.examples import Example
from xmas_job.errors import BadDataError, UsageError
from xmas_job.models.adapter import LVLM, Batch, Encoded

AbsenceReason = Literal["text_only", "no_image_after_truncation", "no_text_after_image"]


def absence_reason(encoded: Encoded, example: Example) -> AbsenceReason | None:
    """Why the example has no alignment score, or None if it has one."""
    if example.modality == "text":
        return "text_only"
    if not encoded.image_token_mask.any():
        return "no_image_after_truncation"
    if encoded.image_token_mask[-1]:
        return "no_text_after_image"
    return None


def num_block_tokens(encoded: Encoded) -> tuple[int, int]:
    """T and V of an example that has a score: text tokens after the last image token, and image tokens."""
    image_positions = encoded.image_token_mask.nonzero()[:, 0]
    return len(encoded.input_ids) - 1 - int(image_positions[-1]), len(image_positions)


def alignment_values(lvlm: LVLM, batch: Batch, *, top_k: int, checkpoint: int) -> Tensor:
    """Shape (B, top_k), float32, on the CPU: the largest singular values of each example's cross-modal block.

    Zeros fill up where a block has fewer than `top_k` rows or columns. The values depend on the example alone.

    Raises:
        UsageError: the model's decoder has no separate q_proj and k_proj.
        BadDataError: an example's block is not finite at `checkpoint`.
    """
    blocks = cross_modal_blocks(lvlm, batch)
    for uid, block in zip(batch.uids, blocks, strict=True):
        if not torch.isfinite(block).all():
            raise BadDataError(
                f"The alignment of example {uid} at checkpoint {checkpoint} is not finite.",
                "The checkpoint's weights or activations overflow: look at its training loss, or extract in float32.",
            )
    return top_singular_values(blocks, top_k).float().cpu()


@torch.no_grad()
def cross_modal_blocks(lvlm: LVLM, batch: Batch) -> list[Tensor]:
    """One (T, V) float32 block an example: softmax(Q Kᵀ/√D), text rows, image columns, summed over all layers.

    Q and K are what q_proj and k_proj put out: bias in, all heads side by side, before RoPE and QK norm. The softmax
    runs over all real tokens of the example: no causal mask, no padding.

    Differs: the released code computes softmax(K Qᵀ), counts padding as rows and keys, assumes a 35-token prefix.
    """
    projections = _projections(lvlm)
    num_key_heads = _num_key_heads(lvlm.model.config.get_text_config())
    blocks = _BlockSum([_positions(batch, index) for index in range(len(batch.uids))], num_key_heads, len(projections))
    hooks = [
        projection.register_forward_hook(partial(blocks.take, side))
        for pair in projections
        for side, projection in zip(("query", "key"), pair, strict=True)
    ]
    try:
        lvlm.model(**batch.model_inputs, use_cache=False)
    except _LastLayerSeenError:
        return blocks.sums
    finally:
        for hook in hooks:
            hook.remove()
    raise UsageError(
        f"{type(lvlm.model).__name__} ran without its last layer's q_proj and k_proj.", "Take another proxy model."
    )


def top_singular_values(blocks: Sequence[Tensor], top_k: int) -> Tensor:
    """Shape (B, top_k), float64, descending: eigenvalues of the smaller Gram matrix, exact to about 1e-14.

    The Gram matrices are padded with zeros to one size, which adds zero eigenvalues and changes no other.
    """
    grams = [_smaller_gram(block.double()) for block in blocks]
    size = max(top_k, *(len(gram) for gram in grams))
    stacked = torch.stack([nn.functional.pad(gram, (0, size - len(gram), 0, size - len(gram))) for gram in grams])
    eigenvalues: Tensor = torch.linalg.eigvalsh(stacked)
    return eigenvalues[:, -top_k:].flip(-1).clamp(min=0).sqrt()


@dataclass(frozen=True)
class _Positions:
    """Token positions of one example in its batch row."""

    real: Tensor  # (S,) everything but padding
    text: Tensor  # (T,) real tokens after the last image token
    image: Tensor  # (V,) as indices into `real`


class _LastLayerSeenError(Exception):
    """Leaves the forward pass early: nothing after the last layer's projections is needed."""


class _BlockSum:
    """Collects each layer's Q and K from hooks and adds the layer's blocks; never holds more than one layer."""

    def __init__(self, positions: list[_Positions], num_key_heads: int, num_layers: int) -> None:
        self.sums = [torch.zeros(len(one.text), len(one.image), device=one.real.device) for one in positions]
        self._positions = positions
        self._num_key_heads = num_key_heads
        self._num_layers_left = num_layers
        self._pending: dict[str, Tensor] = {}

    def take(self, side: str, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        """Forward hook of one projection; `output` (B, S, width)."""
        self._pending[side] = output
        if len(self._pending) < 2:
            return
        query, key = self._pending.pop("query"), self._pending.pop("key")
        for row, positions in enumerate(self._positions):
            self.sums[row] += _layer_block(query[row], key[row], positions, self._num_key_heads)
        self._num_layers_left -= 1
        if self._num_layers_left == 0:
            raise _LastLayerSeenError


def _layer_block(query: Tensor, key: Tensor, positions: _Positions, num_key_heads: int) -> Tensor:
    """Shape (T, V) of one layer and example; only the text rows' softmax is ever computed."""
    width = query.shape[-1]
    # Repeating a key head for the query heads that share it equals adding those query heads up.
    query_TD = (
        query[positions.text].float().reshape(-1, num_key_heads, width // key.shape[-1], key.shape[-1] // num_key_heads)
    )
    scores_TS = query_TD.sum(dim=2).flatten(1) @ key[positions.real].float().T / math.sqrt(width)
    return torch.softmax(scores_TS, dim=-1)[:, positions.image]


def _smaller_gram(block: Tensor) -> Tensor:
    return block @ block.T if block.shape[0] <= block.shape[1] else block.T @ block


def _positions(batch: Batch, index: int) -> _Positions:
    real = batch.model_inputs["attention_mask"][index].nonzero()[:, 0]
    image = batch.image_token_mask[index][real].nonzero()[:, 0]
    return _Positions(real=real, text=real[image[-1] + 1 :], image=image)


def _projections(lvlm: LVLM) -> list[tuple[nn.Module, nn.Module]]:
    """Every decoder layer's (q_proj, k_proj)."""
    decoder = lvlm.language_model()
    pairs = []
    for index, layer in enumerate(getattr(decoder, "layers", [])):
        attention: Any = getattr(layer, "self_attn", None)
        if not (hasattr(attention, "q_proj") and hasattr(attention, "k_proj")):
            raise UsageError(
                f"{type(decoder).__name__} layer {index} has no separate q_proj and k_proj.",
                "Take a proxy whose attention is not fused (Llama, Qwen2, StableLM, Gemma).",
            )
        pairs.append((attention.q_proj, attention.k_proj))
    if not pairs:
        raise UsageError(f"{type(decoder).__name__} has no decoder layers.", "Take a decoder-only language model.")
    return pairs


def _num_key_heads(config: Any) -> int:
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
