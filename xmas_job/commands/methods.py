"""The methods that exist, as `xmas-job methods` shows them: the catalogue, and which models each asks a recipe for."""

from __future__ import annotations

from xmas_job.catalog.methods import METHODS, MethodEntry
from xmas_job.catalog.needs import needs_of
from xmas_job.catalog.signals import SIGNALS
from xmas_job.fingerprint import Json


def list_methods() -> dict[str, Json]:
    """One object a method, by name."""
    return {"methods": [_describe(name, entry) for name, entry in sorted(METHODS.items())]}


def _describe(name: str, entry: MethodEntry) -> Json:
    needs = needs_of(entry)
    signals: list[Json] = [{"signal": need.signal, "checkpoints": need.checkpoints} for need in needs]
    models: list[Json] = [*sorted({SIGNALS[need.signal].model for need in needs})]
    return {
        "name": name,
        "paper": entry.paper,
        "signals": signals,
        "clusters": entry.clustered_signal,
        "nested": entry.nested,
        "cost": entry.cost,
        "keeps": entry.keeps,
        "experimental": entry.experimental,
        "models": models,
    }
