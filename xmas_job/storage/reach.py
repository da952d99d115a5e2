"""What the channels and runs of a store reach, and so what a clearing has to keep.

Owns the closure over records. Decides nothing about runs: it is told which count.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from xmas_job.pipeline import Node
from xmas_job.storage.inventory import Inventory
from xmas_job.storage.record import Record
from xmas_job.storage.store import Store


@dataclass
class Reach:
    """Addresses that are kept, growing until `close`."""

    inventory: Inventory
    addresses: set[str] = field(default_factory=set)

    def add_nodes(self, nodes: Mapping[str, Node], sources: Mapping[str, str], *, may_still_find: bool) -> None:
        """Keep the artifacts of a run's nodes.

        Args:
            nodes: the run's, every node after its inputs.
            sources: source id -> content digest.
            may_still_find: whether the run may be at work. The address of a stage whose inputs are not built yet is
                unknown, and the run may find any artifact there that fits the rest: all of those are kept.
        """
        digests = dict(sources)
        for node in nodes.values():
            try:
                address = node.address(digests.__getitem__)
            except KeyError:
                if may_still_find:
                    self.addresses |= set(self._fitting(node))
                continue
            self.addresses.add(address)
            if record := self.inventory.of_stage(node.spec.name).get(address):
                digests[node.id] = record.digest

    def _fitting(self, node: Node) -> Iterable[str]:
        section = json.loads(json.dumps(node.section.identity()))
        for address, record in self.inventory.of_stage(node.spec.name).items():
            if record is None or (record.version, record.section) == (node.spec.version, section):
                yield address

    def close(self) -> None:
        """Keep also everything that what is kept was made from."""
        records = self.inventory.all()
        made: dict[str, list[str]] = {}
        for address, record in records.items():
            if record is not None:
                made.setdefault(record.digest, []).append(address)
        todo = list(self.addresses)
        while todo:
            for digest in _input_digests(records.get(todo.pop())):
                new = set(made.get(digest, ())) - self.addresses
                self.addresses |= new
                todo += new


def delete_artifact(store: Store, address: str, may_go_on: Callable[[], None]) -> None:
    """Delete an artifact, its record first: half deleted, it is not there. `may_go_on` raises to stop."""
    keys = [entry.key for entry in store.list(address)]
    first = [f"{address}/record.json", *(key for key in keys if _is_partition_record(key, address))]
    for key in dict.fromkeys([*(key for key in first if key in keys), *keys]):
        may_go_on()
        store.delete(key)


def _is_partition_record(key: str, address: str) -> bool:
    name = key.removeprefix(f"{address}/partitions/")
    return name != key and "/" not in name


def _input_digests(record: Record | None) -> Iterable[str]:
    return [digest for digests in record.inputs.values() for digest in digests] if record else []
