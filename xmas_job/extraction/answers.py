"""Signals of the answer tokens' distributions: loss, perplexity, EL2N and the AUM margin.

Owns their mathematics. Legend: B batch, n answer tokens, D width, W vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xmas_job.extraction.capture import Event, Shown
from xmas_job.extraction.spans import Spans
from xmas_job.models.adapter import LVLM

# Logits are made for this many answer tokens at once: 1024 of a 150k vocabulary are 0.6 GB in float32.
_TOKENS_AT_ONCE = 1024
ANSWER_SIGNALS = ("loss", "perplexity", "el2n", "aum")


class Answers:
    """Consumer of the final states; the head sees answer tokens only.

    With p the model's distribution over the vocabulary where answer token y is predicted, means over an example's
    answer tokens:

    loss        mean of −log p_y
    perplexity  exp(loss)
    el2n        mean of ‖p − onehot(y)‖₂                        (Paul et al. 2021; as COINCIDE's baseline)
    aum         mean of p_y − max over w ≠ y of p_w             (COINCIDE's D2 baseline; AUM of Pleiss et al. 2020)
    """

    def __init__(self, lvlm: LVLM, spans: Spans) -> None:
        self._head: Any = lvlm.model.get_output_embeddings()
        self._softcap = lvlm.softcap
        self._spans = spans
        self._means: dict[str, Tensor] = {}

    def events(self, _num_layers: int) -> frozenset[Event]:
        """The final states."""
        return frozenset({Event(0, "final_state")})

    def take(self, _event: Event, shown: Shown) -> None:
        """Compute everything at once: the costly part, the logits, is the same."""
        assert shown.whole is not None
        answer = self._spans.answer
        # The state before an answer token predicts it.
        states = answer.take(shown.whole, offset=1)[answer.is_there]
        ids = self._spans.answer_ids[answer.is_there]
        parts = [
            self._of_tokens(states[start : start + _TOKENS_AT_ONCE], ids[start : start + _TOKENS_AT_ONCE])
            for start in range(0, len(ids), _TOKENS_AT_ONCE)
        ]
        example = answer.is_there.nonzero()[:, 0]
        tokens = torch.cat(parts).double()
        # Not index_add_: its order of summation on a GPU is not fixed.
        sums = torch.stack([tokens[example == row].sum(dim=0) for row in range(len(answer.index))])
        loss, el2n, aum = (sums / answer.counts[:, None]).unbind(dim=1)
        self._means = {"loss": loss, "perplexity": loss.exp(), "el2n": el2n, "aum": aum}

    def values(self, signal: str) -> Tensor:
        """Shape (B, 1), float32, on the CPU."""
        return self._means[signal][:, None].float().cpu()

    def _of_tokens(self, states: Tensor, ids: Tensor) -> Tensor:
        """Shape (tokens, 3): −log p_y, ‖p − onehot(y)‖₂, p_y − max other."""
        logits = self._head(states).float()
        if self._softcap is not None:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        log_p = torch.log_softmax(logits, dim=-1)
        log_p_y = torch.take_along_dim(log_p, ids[:, None], dim=1)
        others = log_p.exp().scatter_(1, ids[:, None], 0)
        p_y = log_p_y[:, 0].exp()
        # 1 − p_y is the sum over the others: near 1 the difference itself would be rounding.
        el2n = (others.square().sum(dim=1) + others.sum(dim=1).square()).sqrt()
        return torch.stack([-log_p_y[:, 0], el2n, p_y - others.amax(dim=1)], dim=1)
