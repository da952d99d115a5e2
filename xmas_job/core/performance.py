"""How well a target does, how sure we are of it, and whether one arm beats another.

Owns means, standard errors, paired differences and ARP over arrays of per-example results.
Refuses to own how an answer is judged (evaluation.metrics) and how it is shown (reports).

Shapes: S training seeds, E held-out examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.special import stdtr, stdtrit
from scipy.stats import bootstrap

from xmas_job.errors import BadDataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

Verdict = Literal["better", "worse", "no difference"]

NUM_RESAMPLES = 9_999
_CELLS_AT_ONCE = 2**22
"""Resampled differences held at once: 32 MB of numbers, as much of places."""


@dataclass(frozen=True, slots=True)
class MeanScore:
    """A mean over examples with its standard error; `standard_error` is None when one example cannot show it."""

    mean: float
    standard_error: float | None
    num_examples: int


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Arm A minus arm B: mean, its standard error, the confidence interval, and what may be claimed from it."""

    mean: float
    standard_error: float
    low: float
    high: float
    verdict: Verdict
    p_value: float
    """Two-sided, of no difference, alone: below 1 - confidence just when the interval leaves out 0."""


def mean_and_standard_error(scores: ArrayLike) -> MeanScore:
    """Mean of per-example scores (E,) and its standard error s / sqrt(E), s the sample standard deviation.

    The error is that of drawing other held-out examples; another training seed is not covered.

    Raises:
        BadDataError: no example, or a score that is not finite.
    """
    array = _finite(scores, ndim=1)
    error = float(array.std(ddof=1)) / sqrt(array.size) if array.size > 1 else None
    return MeanScore(mean=float(array.mean()), standard_error=error, num_examples=array.size)


def mean_by_source(scores: ArrayLike, sources: Sequence[str]) -> dict[str, MeanScore]:
    """`mean_and_standard_error` of each source's examples, sources in alphabetical order.

    Args:
        scores: per-example scores (E,).
        sources: the source of each example (E,).
    """
    array, source_names = _finite(scores, ndim=1), np.asarray(sources)
    if source_names.shape != array.shape:
        raise BadDataError(f"{array.size} scores but {source_names.size} sources.", "Give one source a score.")
    return {str(name): mean_and_standard_error(array[source_names == name]) for name in np.unique(source_names)}


def paired_difference(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> PairedDifference:
    """Is arm A better than arm B, given S trainings of each, judged on the same E examples?

    Both dimensions are random: another set of examples and another set of seeds would have given another
    difference. The variance of the mean of d = a - b is two-way cluster-robust (Cameron, Gelbach and Miller 2011,
    "Robust inference with multiway clustering"): V_examples + V_seeds - V_cells, each with its own factor G / (G - 1).

    Choice: it is never taken below the larger of the two one-way variances, because the subtraction can leave
    nothing in small samples; the quantile is Student's t with min(S, E) - 1 degrees of freedom.

    With S = 1 only the examples vary: the interval then holds for these two trained models, and training noise is
    NOT covered.

    Args:
        a: per-example scores (S, E) of arm A; row s of both arms was trained with the same seed.
        b: per-example scores (S, E) of arm B, same examples in the same order.
        confidence: of the two-sided interval.

    Returns:
        verdict "better" when the interval lies above 0, "worse" when below, else "no difference".

    Raises:
        BadDataError: shapes differ, fewer than two examples, or a score that is not finite.
        UsageError: confidence is not between 0 and 1.
    """
    difference = _paired(a, b, confidence)
    mean = float(difference.mean())
    variance, degrees_of_freedom = _variance_of_mean(difference)
    error = sqrt(variance)
    margin = float(stdtrit(degrees_of_freedom, (1 + confidence) / 2)) * error
    low, high = mean - margin, mean + margin
    verdict: Verdict = "better" if low > 0 else "worse" if high < 0 else "no difference"
    p_value = 2 * float(stdtr(degrees_of_freedom, -abs(mean) / error)) if error else float(mean == 0)
    return PairedDifference(mean, error, low, high, verdict, p_value)


def bootstrap_interval(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Ends of the paired bootstrap interval of arm A minus arm B over other examples, for these S trained models each.

    Percentile bootstrap over examples (Efron and Tibshirani 1993, "An introduction to the bootstrap", chapter 13;
    paired as in Koehn 2004, "Statistical significance tests for machine translation evaluation"): an example's
    difference is its mean over seeds, so both arms are always resampled together. `paired_difference` asks for more,
    other seeds too, and is wider; with S = 1 both answer the same question.

    Choice: percentiles of 9,999 resamples drawn with a fixed seed, so equal scores give equal ends.

    Args:
        a: per-example scores (S, E) of arm A, as for `paired_difference`, whose errors these are too.
        b: per-example scores (S, E) of arm B, same examples in the same order.
        confidence: of the two-sided interval.
    """
    by_example = _paired(a, b, confidence).mean(axis=0)
    found = bootstrap(
        (by_example,),
        np.mean,
        n_resamples=NUM_RESAMPLES,
        batch=max(1, _CELLS_AT_ONCE // by_example.size),
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of several comparisons made at once, in their order.

    Holm 1979, "A simple sequentially rejective multiple test procedure".

    The k-th smallest of m, from 0, becomes (m - k) times itself, at least what a smaller one became, at most 1.
    Claiming what stays below a level errs anywhere among the m with at most that probability, however they depend on
    each other; and they do, all being differences to the same random subsets.
    """
    adjusted = [0.0] * len(p_values)
    reached = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        reached = max(reached, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = reached
    return adjusted


def average_relative_performance(scores: Mapping[str, float], full_scores: Mapping[str, float]) -> float:
    """ARP in percent: the mean over benchmarks of 100 * score / score of the target trained on the whole pool.

    Args:
        scores: benchmark -> score of the arm.
        full_scores: benchmark -> score of the full-data target, same recipe and same protocol.

    Raises:
        BadDataError: the benchmarks differ, there is none, or a full-data score is not above 0 (a ratio to it
            means nothing).
    """
    if not scores or scores.keys() != full_scores.keys():
        raise BadDataError(
            f"ARP needs the same benchmarks on both sides, got {sorted(scores)} and {sorted(full_scores)}.",
            "Evaluate the arm and the full-data target on the same benchmarks.",
        )
    useless = sorted(name for name, full in full_scores.items() if not full > 0)
    if useless:
        raise BadDataError(
            f"The full-data target does not score above 0 on {', '.join(useless)}.", "Leave these out of ARP."
        )
    return float(np.mean([100.0 * scores[name] / full_scores[name] for name in sorted(scores)]))


def _variance_of_mean(difference: NDArray[np.float64]) -> tuple[float, int]:
    """Variance of the grand mean of (S, E) and the degrees of freedom of its t quantile."""
    num_seeds, num_examples = difference.shape
    by_example = float(difference.mean(axis=0).var(ddof=1)) / num_examples
    if num_seeds == 1:
        return by_example, num_examples - 1
    by_seed = float(difference.mean(axis=1).var(ddof=1)) / num_seeds
    by_cell = float(difference.var(ddof=1)) / difference.size
    return max(by_example + by_seed - by_cell, by_example, by_seed), min(num_seeds, num_examples) - 1


def _paired(a: ArrayLike, b: ArrayLike, confidence: float) -> NDArray[np.float64]:
    """Differences (S, E), where they pair."""
    if not 0 < confidence < 1:
        raise UsageError(f"confidence is {confidence}.", "It must lie strictly between 0 and 1, as 0.95.")
    scores_a, scores_b = _finite(a, ndim=2), _finite(b, ndim=2)
    if scores_a.shape != scores_b.shape or scores_a.shape[1] < 2:
        raise BadDataError(
            f"Cannot pair scores of shape {scores_a.shape} with {scores_b.shape}.",
            "Evaluate both arms with the same seeds on the same two or more held-out examples.",
        )
    difference: NDArray[np.float64] = scores_a - scores_b
    return difference


def _finite(scores: ArrayLike, ndim: int) -> NDArray[np.float64]:
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != ndim or array.size == 0 or not np.isfinite(array).all():
        raise BadDataError(
            f"Scores of shape {array.shape} are empty, not finite, or not of {ndim} dimension(s).",
            "Score every held-out example before comparing.",
        )
    return array
