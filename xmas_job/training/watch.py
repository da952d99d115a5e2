"""Watchdogs over a training's numbers: each stops it with the reason. No torch: numbers in, an error out.

Owns what counts as broken. Refuses to own where the numbers come from (loop).
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass, field

from xmas_job.errors import BadDataError, TryAgainError

NUM_ZERO_LOSSES = 10
"""Steps in a row with a loss of exactly 0: one alone may hold only rows without an answer."""
GRADIENT_RATIO, NUM_STEEP = 100.0, 10
"""A gradient norm this many times the median of the steps before, for this many steps in a row."""
NUM_REMEMBERED = 100
FEW_EXAMPLES = 1000
"""Until this many were seen, a share of them says little; the end of the training asks again."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Counts over all processes since the training began."""

    num_examples: int = 0
    num_tokens: int = 0
    num_image_tokens: int = 0
    num_supervised_tokens: int = 0
    num_unsupervised: int = 0


@dataclass(slots=True)
class Watchdogs:
    """Shown every step's numbers.

    Args:
        max_unsupervised_fraction: of the examples seen.
        min_rate_fraction: of the median rate of earlier windows; 0 asks for none.
        slow_seconds: length of a window; two slow ones in a row end the training.
    """

    max_unsupervised_fraction: float
    min_rate_fraction: float = 0.0
    slow_seconds: float = 900.0
    _num_zero: int = 0
    _num_steep: int = 0
    _norms: deque[float] = field(default_factory=lambda: deque(maxlen=NUM_REMEMBERED))
    _rates: list[float] = field(default_factory=list)
    _num_slow: int = 0
    _window: tuple[float, int] | None = None

    def check_step(self, step: int, loss: float, gradient_norm: float) -> None:
        """Raises BadDataError: loss or gradient is not finite, loss stays 0, gradients explode."""
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            raise BadDataError(
                f"Training broke at optimizer step {step}: loss {loss}, gradient norm {gradient_norm}.",
                "Lower the learning rate, or look at the examples of that step.",
            )
        self._num_zero = self._num_zero + 1 if loss == 0 else 0
        if self._num_zero >= NUM_ZERO_LOSSES:
            raise BadDataError(
                f"The loss was exactly 0 in the {NUM_ZERO_LOSSES} optimizer steps up to {step}: nothing is learned.",
                "Look at the chat template and max_length: no answer token may be left.",
            )
        is_steep = len(self._norms) >= NUM_STEEP and gradient_norm > GRADIENT_RATIO * statistics.median(self._norms) > 0
        self._num_steep = self._num_steep + 1 if is_steep else 0
        if self._num_steep >= NUM_STEEP:
            raise BadDataError(
                f"Gradients exploded: norm {gradient_norm:.3g} at optimizer step {step}, and for {NUM_STEEP} steps "
                f"more than {GRADIENT_RATIO:.0f} times the median {statistics.median(self._norms):.3g} before.",
                "Lower the learning rate, or warm up longer.",
            )
        if not is_steep:
            self._norms.append(gradient_norm)

    def check_examples(self, seen: Seen, *, at_end: bool = False) -> None:
        """Raises BadDataError: too many of the examples seen had no answer token."""
        if not seen.num_examples or (seen.num_examples < FEW_EXAMPLES and not at_end):
            return
        fraction = seen.num_unsupervised / seen.num_examples
        if fraction > self.max_unsupervised_fraction:
            raise BadDataError(
                f"{seen.num_unsupervised} of {seen.num_examples} examples had no answer token left "
                f"({fraction:.1%}; the limit is {self.max_unsupervised_fraction:.1%}).",
                "Raise max_length, look at the assistant turns, or allow more: max_unsupervised_fraction.",
            )

    def check_rate(self, now: float, num_tokens: int) -> None:
        """`now` in seconds of a monotonic clock. Raises TryAgainError: the throughput collapsed."""
        if self._window is None:
            self._window = (now, num_tokens)
        begin, before = self._window
        if now - begin < self.slow_seconds:
            return
        rate = (num_tokens - before) / (now - begin)
        self._window = (now, num_tokens)
        usual = statistics.median(self._rates) if self._rates else 0.0
        if rate >= self.min_rate_fraction * usual:
            self._rates.append(rate)
            self._num_slow = 0
            return
        self._num_slow += 1
        if self._num_slow >= 2:
            raise TryAgainError(
                f"Throughput collapsed: {rate:.0f} tokens a second for {2 * self.slow_seconds:.0f} s, "
                f"usually {usual:.0f}.",
                "Look at the machine (thermal limits, disk, network) and give the same command again: it goes on.",
            )
