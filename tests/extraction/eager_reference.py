"""Every signal written again, straight down in float64, one example at a time, from an eager forward of a whole model.

Knows nothing of xmas_job's extraction. Attention maps are those that transformers hands out, or are computed here from
the outputs of q_proj and k_proj; everything else follows the equations word by word.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from xmas_job.models.adapter import LVLM, Encoded


@dataclass
class Eager:
    """What one example's forward pass left: lists by layer, float64."""

    maps: list[np.ndarray]
    logits: np.ndarray
    states: np.ndarray
    queries: list[np.ndarray] = field(default_factory=list)
    keys: list[np.ndarray] = field(default_factory=list)
    outputs: list[np.ndarray] = field(default_factory=list)
    num_key_heads: int = 1


class EagerModel:
    """A float64 copy of a model that hands out its attention maps."""

    def __init__(self, lvlm: LVLM) -> None:
        self.lvlm = lvlm
        self.model = copy.deepcopy(lvlm.model).double().eval()
        self.model.set_attn_implementation("eager")

    def run(self, encoded: Encoded) -> Eager:
        kept: dict[str, list[np.ndarray]] = {"q_proj": [], "k_proj": [], "self_attn": []}
        hooks = []
        for layer in self.model.get_decoder().layers:
            for name in ("q_proj", "k_proj"):
                module = getattr(layer.self_attn, name)
                hooks.append(module.register_forward_hook(partial(_keep, kept[name])))
            hooks.append(layer.self_attn.register_forward_hook(partial(_keep, kept["self_attn"])))
        inputs = dict(self.lvlm.collate([encoded]).model_inputs)
        for name in ("pixel_values",):
            if name in inputs:
                inputs[name] = inputs[name].double()
        with torch.no_grad():
            out = self.model(**inputs, output_attentions=True, output_hidden_states=True, use_cache=False)
        for hook in hooks:
            hook.remove()
        config = self.model.config.get_text_config()
        return Eager(
            [one[0].numpy() for one in out.attentions],
            out.logits[0].numpy(),
            out.hidden_states[-1][0].numpy(),
            kept["q_proj"],
            kept["k_proj"],
            kept["self_attn"],
            config.num_key_value_heads,
        )


def _keep(kept: list[np.ndarray], _module: Any, _inputs: Any, output: Any) -> None:
    kept.append((output if isinstance(output, torch.Tensor) else output[0])[0].detach().double().numpy())


def softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def paper_map(query: np.ndarray, key: np.ndarray, num_key_heads: int, *, swap: bool = False) -> np.ndarray:
    """softmax(Q Kᵀ / √D), key heads repeated one after the other."""
    head_width = key.shape[1] // num_key_heads
    times = query.shape[1] // key.shape[1]
    heads = [key[:, h * head_width : (h + 1) * head_width] for h in range(num_key_heads) for _ in range(times)]
    repeated = np.concatenate(heads, axis=1)
    scores = query @ repeated.T / np.sqrt(query.shape[1])
    return softmax(scores.T if swap else scores)


def rows_and_columns(encoded: Encoded) -> tuple[np.ndarray, np.ndarray]:
    image = np.flatnonzero(encoded.image_token_mask.numpy())
    return np.arange(image[-1] + 1, len(encoded.input_ids)), image


def maps_of(eager: Eager, attention: str) -> list[np.ndarray]:
    if attention == "head_mean":
        return [one.mean(axis=0) for one in eager.maps]
    return [paper_map(q, k, eager.num_key_heads) for q, k in zip(eager.queries, eager.keys, strict=True)]


def answer_tokens(encoded: Encoded) -> np.ndarray:
    return np.flatnonzero(encoded.labels.numpy() >= 0)


def answer_signals(eager: Eager, encoded: Encoded) -> dict[str, float]:
    losses, errors, margins = [], [], []
    for position in answer_tokens(encoded):
        token = int(encoded.labels[position])
        p = softmax(eager.logits[position - 1])
        onehot = np.eye(len(p))[token]
        losses.append(-np.log(p[token]))
        errors.append(np.linalg.norm(p - onehot))
        margins.append(p[token] - np.delete(p, token).max())
    loss = float(np.mean(losses))
    return {"loss": loss, "perplexity": np.exp(loss), "el2n": float(np.mean(errors)), "aum": float(np.mean(margins))}


def coincide(eager: Eager, encoded: Encoded, layers: tuple[int, ...]) -> np.ndarray:
    rows, columns = rows_and_columns(encoded)
    halves: list[list[np.ndarray]] = [[], []]
    for layer in layers:
        for half, positions in zip(halves, (columns, rows), strict=True):
            pooled = np.tanh(eager.outputs[layer][positions].mean(axis=0))
            half.append(pooled / np.linalg.norm(pooled))
    return np.concatenate([*halves[0], *halves[1]]) / np.sqrt(2 * len(layers))
