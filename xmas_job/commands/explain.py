"""Why a stage is not reused: what differs from the artifact that comes nearest. Reads records only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from xmas_job.commands.resolve import new_run_id, resolve_run
from xmas_job.config import RunConfig
from xmas_job.environment import Environment
from xmas_job.errors import MissingInputError
from xmas_job.fingerprint import Json
from xmas_job.pipeline import Node, is_source
from xmas_job.runner import Runner
from xmas_job.storage.inventory import Inventory
from xmas_job.storage.record import Artifact, Record
from xmas_job.storage.roots import open_store

NOT_BUILT = "not built yet"


def explain_cache(environment: Environment, config: RunConfig) -> dict[str, Json]:
    """Every stage that a run would build, with what differs from the nearest artifact of its kind. Writes nothing.

    Nearest: the fewest differing fields, the newest among equals. A difference names its field, old and new value;
    for an input also the stage that gives it, and what differs there.
    """
    store = open_store(environment.store_root)
    runner = Runner(store, environment, resolve_run(config, store, new_run_id()))
    why = _Why(runner)
    stages: list[Json] = [
        {"stage": node.id, "state": "HIT"} if runner.find(node.id) else why.explain(node)
        for node in runner.run.nodes.values()
    ]
    return {"store": store.uri, "stages": stages}


@dataclass
class _Why:
    runner: Runner

    @cached_property
    def inventory(self) -> Inventory:
        return Inventory(self.runner.store)

    def explain(self, node: Node) -> dict[str, Json]:
        """The stage's state, its nearest artifact and what differs."""
        identity = self._identity(node)
        state = "UNKNOWN" if _unbuilt(identity) else "MISS"
        found: dict[str, Json] = {"stage": node.id, "state": state}
        nearest = self._nearest(node, identity)
        if nearest is None:
            return {**found, "nearest": None, "differences": [], "lost": []}
        address, record = nearest
        differences: list[Json] = list(self._differences(node, identity, record))
        lost = [] if differences else _lost(Artifact(self.runner.store, address, record))
        return {**found, "nearest": address, "differences": differences, "lost": lost}

    def _identity(self, node: Node) -> dict[str, Any]:
        """As in the fingerprint; None for the digest of an input that is not built."""

        def digest(item: str) -> str:
            try:
                return self.runner.digest(item)
            except MissingInputError:
                return NOT_BUILT

        return node.identity(digest)

    def _nearest(self, node: Node, identity: Mapping[str, Any]) -> tuple[str, Record] | None:
        candidates = [
            (self._distance(node, identity, record), str(record.provenance.get("created_at", "")), address, record)
            for address, record in self.inventory.of_stage(node.spec.name).items()
            if record is not None
        ]
        if not candidates:
            return None
        fewest = min(distance for distance, *_ in candidates)
        _, _, address, record = max(
            (candidate for candidate in candidates if candidate[0] == fewest), key=lambda candidate: candidate[1:3]
        )
        return address, record

    def _distance(self, node: Node, identity: Mapping[str, Any], record: Record) -> int:
        """Number of differing fields; an input that is not built differs, unless the nearest upstream gave it."""
        fields = _changed(_own(identity), {"version": record.version, "section": dict(record.section)})
        inputs = 0
        for item, new, old in _input_pairs(node, identity, record):
            if new == NOT_BUILT and item in self.runner.run.nodes:
                nearest = self._nearest_of(item)
                inputs += nearest is None or nearest.digest != old
            else:
                inputs += new != old
        return len(fields) + inputs

    def _nearest_of(self, node_id: str) -> Record | None:
        node = self.runner.run.nodes[node_id]
        if node_id not in self._found:
            nearest = self._nearest(node, self._identity(node))
            self._found[node_id] = nearest[1] if nearest else None
        return self._found[node_id]

    @cached_property
    def _found(self) -> dict[str, Record | None]:
        return {}

    def _differences(self, node: Node, identity: Mapping[str, Any], record: Record) -> list[dict[str, Json]]:
        """Field by field against one record; for an input, with the differences of the stage that gives it."""
        own = {"version": record.version, "section": dict(record.section)}
        found: list[dict[str, Json]] = [
            {"field": field, "old": old, "new": new} for field, old, new in _changed(_own(identity), own)
        ]
        for item, new, old in _input_pairs(node, identity, record):
            if new != old:
                found.append({"field": f"input {item}", "old": old, "new": new, "because": self._because(item, old)})
        return found

    def _because(self, item: str | None, old: str | None) -> list[Json]:
        """What differs in the stage that gives an input now from the one that gave `old`."""
        if item is None or old is None or is_source(item) or item not in self.runner.run.nodes:
            return []
        node = self.runner.run.nodes[item]
        identity = self._identity(node)
        gave = [record for _, record in self.inventory.with_digest(old, node.spec.name)]
        if not gave:
            return []
        nearest = min(gave, key=lambda record: self._distance(node, identity, record))
        return list(self._differences(node, identity, nearest))


def _own(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {"version": identity["version"], "section": identity["section"]}


def _unbuilt(identity: Mapping[str, Any]) -> bool:
    return any(NOT_BUILT in digests for digests in identity["inputs"].values())


def _flat(value: Any, path: str) -> dict[str, Any]:
    """Leaf path -> value; lists are leaves."""
    if not isinstance(value, Mapping) or not value:
        return {path: value}
    return {
        leaf: found for name, part in value.items() for leaf, found in _flat(part, f"{path}.{name}".lstrip(".")).items()
    }


ABSENT = "(absent)"


def _changed(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(path, old, new) of every leaf that differs."""
    before, after = _flat(old, ""), _flat(new, "")
    return [
        (path, before.get(path, ABSENT), after.get(path, ABSENT))
        for path in sorted({*before, *after})
        if before.get(path, ABSENT) != after.get(path, ABSENT)
    ]


def _input_pairs(
    node: Node, identity: Mapping[str, Any], record: Record
) -> list[tuple[str | None, str | None, str | None]]:
    """(input id, digest now, digest then) in order; None where one side has fewer inputs."""
    pairs: list[tuple[str | None, str | None, str | None]] = []
    for name in sorted({*node.inputs, *record.inputs}):
        items, new, old = node.inputs.get(name, ()), identity["inputs"].get(name, []), record.inputs.get(name, ())
        for place in range(max(len(new), len(old))):
            item = items[place] if place < len(items) else None
            pairs.append((item, new[place] if place < len(new) else None, old[place] if place < len(old) else None))
    return pairs


def _lost(artifact: Artifact) -> list[Json]:
    """Files that are gone or have another size."""
    sizes = {entry.key: entry.size for entry in artifact.store.list(artifact.address)}
    return [path for path in artifact.paths if sizes.get(artifact.key(path)) != artifact.file(path).bytes]
