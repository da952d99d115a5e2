"""The verdict in plain words: was the subset worth it, how sure is that, and what the interval leaves out.

Owns sentences. Refuses to own statistics: verdict and interval come from the evaluation as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xmas_job.reports.facts import Comparison, Evaluation, Score

if TYPE_CHECKING:
    from xmas_job.core.performance import Verdict

_OPENING: dict[Verdict, str] = {
    "better": "The {arm} subset beat {baseline} on {benchmark}",
    "worse": "The {arm} subset lost to {baseline} on {benchmark}",
    "no difference": "No difference was shown between the {arm} subset and {baseline} on {benchmark}",
}
_CONSEQUENCE: dict[Verdict, str] = {
    "better": "",
    "worse": " On this evidence, train on {baseline} instead.",
    "no difference": " The data fit anything from a loss of {loss:.3f} to a gain of {gain:.3f}.",
}
_NEVER_COVERED = "another pool, budget, proxy, target model or clustering seed"


def signed(value: float) -> str:
    """Three decimals with an explicit sign, a typographic minus, and no sign on zero."""
    text = f"{value:+.3f}"
    return "0.000" if float(text) == 0 else text.replace("-", "−")


def headline(method: str, evaluation: Evaluation | None) -> dict[str, Any]:
    """The top of the page as {verdict, sentences, covers, leaves_out}.

    `verdict` is the comparisons' common verdict, "mixed" when they disagree, "not measured" when there are none.
    """
    if evaluation is None or not evaluation.comparisons:
        return {
            "verdict": "not measured",
            "sentences": [_not_measured(method, evaluation)],
            "covers": "",
            "leaves_out": "",
        }
    comparisons = evaluation.comparisons
    verdicts = {comparison.difference.verdict for comparison in comparisons}
    sentences = [_sentence(comparison, evaluation.scores) for comparison in comparisons]
    if len(comparisons) > 1:
        sentences.insert(0, _tally(comparisons))
    return {
        "verdict": verdicts.pop() if len(verdicts) == 1 else "mixed",
        "sentences": sentences,
        "covers": _covers(comparisons[0]),
        "leaves_out": _leaves_out(comparisons[0]),
    }


def _not_measured(method: str, evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return (
            "No target was trained and scored in this run, so whether this subset is worth more than a random one of "
            "the same size is unknown."
        )
    return f"Targets were scored, but none was compared with the one trained on the {method} subset."


def _sentence(comparison: Comparison, scores: tuple[Score, ...]) -> str:
    difference = comparison.difference
    names = {
        "arm": comparison.arm,
        "baseline": baseline_in_words(comparison.baseline),
        "benchmark": comparison.benchmark,
        "loss": -difference.low,
        "gain": difference.high,
    }
    first, second = (_mean(scores, arm, comparison.benchmark) for arm in (comparison.arm, comparison.baseline))
    return (
        f"{_OPENING[difference.verdict].format(**names)}: {comparison.metric} {first:.3f} against {second:.3f}, "
        f"a difference of {signed(difference.mean)} ({100 * comparison.confidence:.4g}% interval "
        f"{signed(difference.low)} to {signed(difference.high)}).{_CONSEQUENCE[difference.verdict].format(**names)}"
    )


def baseline_in_words(arm: str) -> str:
    """What an arm was trained on: the full pool, or a subset of the same size as the one it is compared with."""
    named = {"full": "the full pool", "random": "a random subset of the same size"}
    return named.get(arm, f"a subset of the same size chosen by {arm}")


def _mean(scores: tuple[Score, ...], arm: str, benchmark: str) -> float:
    means = [s.mean for s in scores if s.arm == arm and s.benchmark == benchmark and s.source is None]
    if not means:
        raise ValueError(f"arm {arm!r} is compared on {benchmark!r} but has no score there")
    return sum(means) / len(means)


def _tally(comparisons: tuple[Comparison, ...]) -> str:
    counted = {verdict: sum(c.difference.verdict == verdict for c in comparisons) for verdict in _OPENING}
    parts = ", ".join(f"{verdict} on {count}" for verdict, count in counted.items() if count)
    baseline = baseline_in_words(comparisons[0].baseline)
    return f"The {comparisons[0].arm} subset against {baseline} on {len(comparisons)} benchmarks: {parts}."


def _covers(comparison: Comparison) -> str:
    examples = f"the choice of the {comparison.num_examples:,} held-out examples"
    if comparison.num_seeds == 1:
        return examples
    return f"{examples} and the luck of training, seen over {comparison.num_seeds} seeds"


def _leaves_out(comparison: Comparison) -> str:
    if comparison.num_seeds == 1:
        return f"the luck of training (each arm was trained once; another seed moves both), {_NEVER_COVERED}"
    return _NEVER_COVERED
