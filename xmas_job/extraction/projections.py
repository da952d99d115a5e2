"""Where a decoder layer's queries and keys come from: separate projections, or one that is split.

Owns the layouts. Refuses by name a decoder that has neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from xmas_job.errors import UsageError
from xmas_job.models.adapter import LVLM


@dataclass(frozen=True)
class Tap:
    """A module, and how its output (B, S, width) gives "query" or "key" or both."""

    module: nn.Module
    split: Callable[[Tensor], Mapping[str, Tensor]]


def projection_taps(lvlm: LVLM, layer: int) -> tuple[Tap, ...]:
    """The taps of one layer. What they give is before RoPE and before any norm of queries and keys, bias in.

    Raises:
        UsageError: the layer has neither q_proj and k_proj nor a qkv_proj of known layout.
    """
    decoder: Any = lvlm.language_model()
    attention: Any = getattr(decoder.layers[layer], "self_attn", None)
    if hasattr(attention, "q_proj") and hasattr(attention, "k_proj"):
        return Tap(attention.q_proj, lambda output: {"query": output}), Tap(
            attention.k_proj, lambda output: {"key": output}
        )
    num_heads, num_key_heads = head_counts(lvlm)
    fused = getattr(attention, "qkv_proj", None)
    width = getattr(fused, "out_features", 0)
    if fused is None or width == 0 or width % (num_heads + 2 * num_key_heads):
        raise UsageError(
            f"{type(decoder).__name__} layer {layer} has neither q_proj and k_proj nor a qkv_proj of queries, keys and"
            " values in a row.",
            "Take a proxy with such attention layers (Llama, Qwen, StableLM, Gemma, Phi-3).",
        )
    head_width = width // (num_heads + 2 * num_key_heads)
    query_width, key_width = num_heads * head_width, num_key_heads * head_width
    return (
        Tap(
            fused,
            lambda output: {
                "query": output[..., :query_width],
                "key": output[..., query_width : query_width + key_width],
            },
        ),
    )


def head_counts(lvlm: LVLM) -> tuple[int, int]:
    """Query heads and key heads of the decoder."""
    config = lvlm.model.config.get_text_config()
    num_heads = int(config.num_attention_heads)
    return num_heads, int(getattr(config, "num_key_value_heads", None) or num_heads)
