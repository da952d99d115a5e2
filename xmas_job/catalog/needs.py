"""What has to be there for methods: their needs united, how a recipe writes them, and which checkpoints that means.

Owns the arithmetic of needs. What a signal or a method is stands in `signals` and `methods`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast, get_args

from xmas_job.catalog.methods import Checkpoints, MethodEntry, SignalNeed
from xmas_job.catalog.signals import EXTRACTED, SIGNALS

BETWEEN = "@"
"""In a recipe: signal@checkpoints; without it, all checkpoints 1..T."""


def needs_of(entry: MethodEntry) -> tuple[SignalNeed, ...]:
    """Every signal of a method, its clusters' among them, one need a signal, by name."""
    clustering = entry.clustering
    clustered = (SignalNeed(clustering.signal, clustering.checkpoints),) if clustering else ()
    return united((*entry.signals, *clustered))


def unclustered_needs(entry: MethodEntry) -> tuple[SignalNeed, ...]:
    """What a method reads beside the trajectories that were clustered for it, which lie with their clusters.

    Vectors are not kept with their clusters: they are large, and stored once.
    """
    clustering = entry.clustering
    if clustering is None or SIGNALS[clustering.signal].is_vector:
        return entry.signals
    return tuple(need for need in entry.signals if need != SignalNeed(clustering.signal, clustering.checkpoints))


def united(needs: Iterable[SignalNeed]) -> tuple[SignalNeed, ...]:
    """One need a signal that serves all of its needs, by name."""
    wanted: dict[str, Checkpoints] = {}
    for need in needs:
        wanted[need.signal] = _both(wanted.get(need.signal, need.checkpoints), need.checkpoints)
    return tuple(SignalNeed(signal, checkpoints) for signal, checkpoints in sorted(wanted.items()))


def _both(one: Checkpoints, other: Checkpoints) -> Checkpoints:
    if one == other:
        return one
    parts = {*one.split(" and "), *other.split(" and ")}
    upto = "all" if "all" in parts else "last"
    return cast("Checkpoints", f"first and {upto}" if "first" in parts else upto)


def written(needs: Iterable[SignalNeed]) -> tuple[str, ...]:
    """As in a recipe, e.g. ("alignment", "el2n@last")."""
    return tuple(
        need.signal if need.checkpoints == "all" else f"{need.signal}{BETWEEN}{need.checkpoints}" for need in needs
    )


def parse_needs(texts: Iterable[str]) -> tuple[SignalNeed, ...]:
    """Signals of the proxy as a recipe writes them, united.

    Raises:
        ValueError: for a signal or checkpoints that are not known.
    """
    return united(map(_parse, texts))


def _parse(text: str) -> SignalNeed:
    signal, _, checkpoints = text.partition(BETWEEN)
    if signal not in EXTRACTED:
        raise ValueError(f"unknown signal {signal!r}; known: {', '.join(sorted(EXTRACTED))}")
    known = [name for name in get_args(Checkpoints) if name != "none"]
    if checkpoints not in {"", *known}:
        raise ValueError(f"unknown checkpoints {checkpoints!r} of {signal!r}; known: {', '.join(known)}")
    return SignalNeed(signal, cast("Checkpoints", checkpoints or "all"))


def steps_of(checkpoints: Checkpoints, there: Sequence[int]) -> tuple[int, ...]:
    """Which of the checkpoints 0..T are meant, ascending; T is the last of those that are there."""
    last = max(there)
    parts = checkpoints.split(" and ")
    return (*((0,) if "first" in parts else ()), *(range(1, last + 1) if "all" in parts else (last,)))
