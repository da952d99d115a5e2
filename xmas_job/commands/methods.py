"""The methods that exist, as `xmas-job methods` shows them: the catalogue, and whether this line serves them."""

from __future__ import annotations

from xmas_job.catalog.methods import METHODS, MethodEntry
from xmas_job.catalog.signals import SIGNALS
from xmas_job.fingerprint import Json


def list_methods() -> dict[str, Json]:
    """One object a method, by name."""
    return {"methods": [_describe(name, entry) for name, entry in sorted(METHODS.items())]}


def _describe(name: str, entry: MethodEntry) -> Json:
    needs = {need.signal: need.checkpoints for need in entry.signals}
    if entry.clustering:
        needs.setdefault(entry.clustering.signal, entry.clustering.checkpoints)
    missing: list[Json] = [signal for signal in needs if SIGNALS[signal].stage is None]
    signals: list[Json] = [{"signal": signal, "checkpoints": checkpoints} for signal, checkpoints in needs.items()]
    return {
        "name": name,
        "paper": entry.paper,
        "signals": signals,
        "clusters": entry.clustered_signal,
        "nested": entry.nested,
        "cost": entry.cost,
        "keeps": entry.keeps,
        "experimental": entry.experimental,
        "missing": missing,
    }
