"""The signals there are: a literal table, read by config, plan and the contract test of the methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

REMEDIES: dict[str, str] = {
    "proxy": "Give the recipe a proxy, a small LVLM: proxy.model.",
    "dual encoder": "Give the recipe a dual encoder, such as CLIP: encoder.model.",
    "selector": "Give the recipe the dual encoder that the selector reads: encoder.model.",
}
"""Model -> what to provide where a run has none."""

Stage = Literal["extract", "encode", "apply_selector"]


@dataclass(frozen=True)
class SignalEntry:
    """What a signal is, who has it, and where it comes from."""

    meaning: str
    paper: str
    model: Literal["proxy", "dual encoder", "selector"] = "proxy"
    """What computes it; extraction computes all of the proxy's."""
    domain: Literal["block", "answer", "all"] = "block"
    """Who has it: examples with an image and text after it, examples with an answer token, or all; others are absent
    with a reason."""
    is_vector: bool = False
    """One row of features an example; else one number."""

    @property
    def stage(self) -> Stage:
        """The stage that computes it."""
        stages: dict[str, Stage] = {"proxy": "extract", "dual encoder": "encode", "selector": "apply_selector"}
        return stages[self.model]

    @property
    def remedy(self) -> str:
        """What to provide where a run has no such model."""
        return REMEDIES[self.model]


SIGNALS: dict[str, SignalEntry] = {
    "alignment": SignalEntry("sum of the top singular values of the cross-modal attention block", "arXiv 2510.01454"),
    "loss": SignalEntry("mean NLL of the answer tokens, in nats", "arXiv 2403.07384", domain="answer"),
    "perplexity": SignalEntry("exp(loss)", "arXiv 2309.04564", domain="answer"),
    "el2n": SignalEntry("mean over answer tokens of |softmax - one-hot|", "arXiv 2107.07075", domain="answer"),
    "aum": SignalEntry("mean over answer tokens of p(token) - largest other p", "arXiv 2001.10528", domain="answer"),
    "mean_state": SignalEntry(
        "last layer's state, mean over real tokens", "arXiv 2310.07931", domain="all", is_vector=True
    ),
    "last_state": SignalEntry(
        "last layer's state at the last real token", "arXiv 2303.09540", domain="all", is_vector=True
    ),
    "coincide": SignalEntry(
        "pooled attention outputs of some layers: all image halves, then all text halves",
        "arXiv 2406.10995",
        is_vector=True,
    ),
    "clip": SignalEntry(
        "unit vector of [image; human turns], each half of one norm", "arXiv 2605.26761", "dual encoder", is_vector=True
    ),
    "clip_score": SignalEntry("cosine of image and conversation", "arXiv 2104.08718", "dual encoder"),
    "ofa_confidence": SignalEntry("largest class probability of the OFA selector", "arXiv 2605.26761", "selector"),
}

EXTRACTED = tuple(name for name, entry in SIGNALS.items() if entry.model == "proxy")
"""What extraction computes."""
