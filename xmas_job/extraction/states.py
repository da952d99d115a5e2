"""Signals of hidden states: embeddings of an example, and COINCIDE's features.

Owns their mathematics. Legend: B batch, S tokens, D width, L layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xmas_job.extraction.alignment import chosen_layers
from xmas_job.extraction.capture import Event, Shown
from xmas_job.extraction.spans import Spans

EMBEDDINGS = ("mean_state", "last_state")


class Embeddings:
    """Consumer of the last layer's states h after the final norm, S real tokens an example.

    mean_state  1/S Σ_s h_s     Differs: COINCIDE's D2 baseline counts padding.
    last_state  h_S             Differs: COINCIDE's SemDeDup baseline takes the padded position.
    """

    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self._states: dict[str, Tensor] = {}

    def events(self, _num_layers: int) -> frozenset[Event]:
        """The final states."""
        return frozenset({Event(0, "final_state")})

    def take(self, _event: Event, shown: Shown) -> None:
        """Both, because a sum costs nothing beside the layers."""
        assert shown.whole is not None
        real = self._spans.real
        last = (real.counts - 1)[:, None, None]
        self._states = {
            "mean_state": real.mean(shown.whole),
            "last_state": torch.take_along_dim(shown.whole, last, dim=1)[:, 0].float(),
        }

    def values(self, signal: str) -> Tensor:
        """Shape (B, D), float32, on the CPU."""
        return self._states[signal].cpu()


class Coincide:
    """Consumer of attention outputs a_l after o_proj, without the residual, at the chosen layers.

    f = 1/√(2L) [n(tanh(mean over image tokens of a_l)) for l] ++ [n(tanh(mean over text after the image)) for l],
    with n(x) = x / ‖x‖₂; about unit length.

    Source: COINCIDE, section 4 and its feature extraction; layers 3, 7, 11, 15, 19 there.
    Differs: its code takes fixed positions, also for text-only examples, which have no feature here.
    """

    def __init__(self, spans: Spans, layers: tuple[int, ...]) -> None:
        self._spans = spans
        self._layers = layers
        self._parts: dict[int, tuple[Tensor, Tensor]] = {}

    def events(self, num_layers: int) -> frozenset[Event]:
        """The attention outputs of the chosen layers."""
        return frozenset(Event(layer, "attention_output") for layer in chosen_layers(self._layers, num_layers))

    def take(self, event: Event, shown: Shown) -> None:
        """Pool one layer."""
        assert shown.whole is not None
        image, text = self._spans.image.mean(shown.whole), self._spans.text.mean(shown.whole)
        self._parts[event.layer] = (_direction(image), _direction(text))

    def values(self) -> Tensor:
        """Shape (B, 2 L D), float32, on the CPU."""
        parts = [self._parts[layer] for layer in self._layers]
        halves = [*(image for image, _ in parts), *(text for _, text in parts)]
        return torch.cat(halves, dim=1).div_((2 * len(parts)) ** 0.5).cpu()


def _direction(pooled: Tensor) -> Tensor:
    return nn.functional.normalize(torch.tanh(pooled), dim=1)
