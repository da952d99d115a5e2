"""The signals that methods may ask for: a literal table, read by config, plan and the contract test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Domain = Literal["image examples", "all examples"]


REMEDIES: dict[str, str] = {
    "proxy": "Extraction does not compute it yet: choose a method whose signals it does (xmas-job methods).",
    "dual encoder": "It needs features of a dual encoder such as CLIP: choose a method without (xmas-job methods).",
    "selector": "It needs a trained OFA selector: choose a method without (xmas-job methods).",
}
"""Model -> what to do as long as no stage computes its signal."""


@dataclass(frozen=True)
class SignalEntry:
    """What a signal is, and where it comes from."""

    meaning: str
    model: Literal["proxy", "dual encoder", "selector"]
    """What computes it."""
    is_vector: bool = False
    """One row of features an example; else one number."""
    domain: Domain = "image examples"
    """Examples outside are absent with a reason."""
    stage: str | None = None
    """The stage of the line that computes it; None while there is none."""

    @property
    def remedy(self) -> str:
        """What to do when no stage computes it."""
        return REMEDIES[self.model]


SIGNALS: dict[str, SignalEntry] = {
    "alignment": SignalEntry("sum of the top singular values of cross-modal attention", "proxy", stage="extract"),
    "loss": SignalEntry("mean NLL of the answer tokens, in nats", "proxy", domain="all examples"),
    "perplexity": SignalEntry("exp of the mean NLL of the answer tokens", "proxy", domain="all examples"),
    "el2n": SignalEntry("mean over answer tokens of |softmax - one-hot|", "proxy", domain="all examples"),
    "aum": SignalEntry("mean over answer tokens of p(token) - largest other p", "proxy", domain="all examples"),
    "last_state": SignalEntry(
        "last hidden state of the last real token", "proxy", is_vector=True, domain="all examples"
    ),
    "mean_state": SignalEntry(
        "mean over real tokens of the last hidden state", "proxy", is_vector=True, domain="all examples"
    ),
    "coincide": SignalEntry(
        "pooled attention outputs of a few layers: all image halves, then all text halves", "proxy", is_vector=True
    ),
    "clip": SignalEntry("unit vector of [image; human turns], each half of one norm", "dual encoder", is_vector=True),
    "clip_score": SignalEntry("cosine of image and conversation", "dual encoder"),
    "ofa_confidence": SignalEntry("largest class probability of the OFA selector", "selector"),
}
