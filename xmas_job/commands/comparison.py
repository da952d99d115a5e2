"""A comparison in the store: written down once with everything it resolved to, before any of its runs works.

Owns comparisons/<id>/comparison.json. The runs are ordinary ones; what they share is built once because they have
equal inputs, not because anything here says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from xmas_job.commands.comparison_request import Entry, Request, entries
from xmas_job.commands.resolve import checked_id, resolve_run, start_run
from xmas_job.config import RunConfig, validate_config
from xmas_job.environment import Environment
from xmas_job.errors import UsageError
from xmas_job.fingerprint import Json, canonical_json, digest_of
from xmas_job.stage_io import Source
from xmas_job.storage.documents import read_document
from xmas_job.storage.journal import recipe_key, utc_now
from xmas_job.storage.roots import open_store
from xmas_job.storage.store import Store


@dataclass(frozen=True)
class Comparison:
    """What is compared. The entries' configurations name literal dataset versions."""

    comparison_id: str
    created_at: str
    methods: tuple[str, ...]
    budgets: tuple[str, ...]
    asked: tuple[RunConfig | None, ...]
    """The entries' configurations as asked for: the same id stands for the same request."""
    sources: Mapping[str, Source]
    """What landed data and models were when it began: the same for all runs."""
    entries: tuple[Entry, ...]

    def run_id(self, entry: Entry) -> str:
        """Id of the entry's run."""
        return f"{self.comparison_id}.{entry.name}"

    @property
    def running(self) -> tuple[Entry, ...]:
        """The entries that have a run."""
        return tuple(entry for entry in self.entries if entry.config)


def folder(comparison_id: str) -> str:
    """Store key under which everything of a comparison lies, but for its runs."""
    return f"comparisons/{comparison_id}"


def start_comparison(store: Store, request: Request, comparison_id: str | None) -> Comparison:
    """Write the comparison down and start its runs; nothing is built. The same again finds both.

    Args:
        store: where.
        request: what.
        comparison_id: None for one that follows from the request, the landed versions and the models: the same
            command on the same data is the same comparison.

    Raises:
        UsageError: as `entries`, or if the comparison was started with another request.
    """
    asked = entries(request)
    if comparison_id is None or not store.exists(_key(comparison_id)):
        content = _content(store, request, asked)
        comparison_id = comparison_id or digest_of(content)[:12]
        for entry in asked:
            checked_id(f"{comparison_id}.{entry.name}")
        document = {"comparison_id": comparison_id, "created_at": utc_now(), **content}
        store.create(_key(comparison_id), canonical_json(document) + b"\n")
    comparison = read_comparison(store, comparison_id)
    if comparison.asked != tuple(entry.config for entry in asked):
        raise UsageError(f"comparison {comparison_id} was started with another request.", "Choose another id.")
    for entry in comparison.running:
        assert entry.config is not None
        start_run(entry.config, store, comparison.run_id(entry), comparison.sources)
    return comparison


def start(environment: Environment, request: Request, comparison_id: str) -> dict[str, Json]:
    """For launchers: start the comparison and name its runs, each with the recipe and budget that stand for it."""
    store = open_store(environment.store_root)
    comparison = start_comparison(store, request, comparison_id)
    runs: list[Json] = [
        {
            "run": comparison.run_id(entry),
            "recipe": f"{store.uri}/{recipe_key(comparison.run_id(entry))}",
            "budget": entry.budget,
        }
        for entry in comparison.running
    ]
    refused: list[Json] = [
        {"method": entry.method, "budget": entry.budget, "error": entry.error, "remedy": entry.remedy}
        for entry in comparison.entries
        if entry.config is None
    ]
    return {"comparison": comparison.comparison_id, "runs": runs, "refused": refused}


def read_comparison(store: Store, comparison_id: str) -> Comparison:
    """A comparison that was started.

    Raises:
        UsageError: if there is none of that id.
    """

    def parse(raw: dict[str, Any]) -> Comparison:
        where = f"comparison {comparison_id}"
        return Comparison(
            comparison_id=raw["comparison_id"],
            created_at=raw["created_at"],
            methods=tuple(raw["methods"]),
            budgets=tuple(raw["budgets"]),
            asked=tuple(_parsed(config, where) for config in raw["asked"]),
            sources={name: Source(**source) for name, source in raw["sources"].items()},
            entries=tuple(Entry(**{**entry, "config": _parsed(entry["config"], where)}) for entry in raw["entries"]),
        )

    remedy = f"Restore it from a copy, or delete the folder {folder(comparison_id)}: what its runs built stays."
    try:
        return read_document(store, _key(checked_id(comparison_id)), parse, remedy=remedy)
    except FileNotFoundError:
        raise UsageError(
            f"there is no comparison {comparison_id!r} in {store.uri}.", "Start one: xmas-job compare --methods ..."
        ) from None


def _key(comparison_id: str) -> str:
    return f"{folder(checked_id(comparison_id))}/comparison.json"


def _content(store: Store, request: Request, asked: Sequence[Entry]) -> dict[str, Json]:
    """What is written down: the request, and what it resolves to.

    Versions and models are looked at once. An entry whose model is not there is refused as one whose signal is not.

    Raises:
        UsageError: if no entry is left.
    """
    sources: dict[str, Source] = {}
    found = []
    for entry in asked:
        try:
            run = resolve_run(entry.config, store, entry.name, sources) if entry.config else None
        except UsageError as error:
            found.append(replace(entry, config=None, error=error.message, remedy=error.remedy))
            continue
        sources.update(run.sources if run else {})
        found.append(replace(entry, config=run.config) if run else entry)
    if all(entry.config is None for entry in found):
        last = found[-1]
        raise UsageError(last.error, last.remedy)
    return {
        "methods": list(request.methods),
        "budgets": list(request.budgets),
        "asked": [_dumped(entry.config) for entry in asked],
        "sources": {name: {"uri": source.uri, "digest": source.digest} for name, source in sources.items()},
        "entries": [
            {
                "method": entry.method,
                "budget": entry.budget,
                "config": _dumped(entry.config),
                "error": entry.error,
                "remedy": entry.remedy,
            }
            for entry in found
        ],
    }


def _dumped(config: RunConfig | None) -> Json:
    return config.model_dump(mode="json") if config else None


def _parsed(raw: Any, where: str) -> RunConfig | None:
    return validate_config(raw, where=where) if raw else None
