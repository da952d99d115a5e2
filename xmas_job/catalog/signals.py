"""The signals that extraction can compute: a literal table, read by config and by the methods' entries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class SignalEntry:
    """What the rest of the job must know of a signal without importing it."""

    domain: Literal["block", "answer", "all"]
    """Who has it: examples with an image and text after it, examples with an answer token, or all."""
    meaning: str
    paper: str


SIGNALS: dict[str, SignalEntry] = {
    "alignment": SignalEntry("block", "singular values of the cross-modal attention block", "arXiv 2510.01454"),
    "loss": SignalEntry("answer", "mean negative log-likelihood of the answer tokens", "arXiv 2403.07384"),
    "perplexity": SignalEntry("answer", "exp(loss)", "arXiv 2309.04564"),
    "el2n": SignalEntry("answer", "mean length of the answer tokens' error vectors", "arXiv 2107.07075"),
    "aum": SignalEntry("answer", "mean margin of the answer tokens' probability", "arXiv 2001.10528"),
    "mean_state": SignalEntry("all", "last layer's state, mean over real tokens", "arXiv 2310.07931"),
    "last_state": SignalEntry("all", "last layer's state at the last real token", "arXiv 2303.09540"),
    "coincide": SignalEntry("block", "pooled attention outputs of some layers", "arXiv 2406.10995"),
}
