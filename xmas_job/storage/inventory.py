"""What artifacts a store has: their addresses, their records, and which of them made a content digest.

Owns looking at the artifacts without a run. Lists folders and reads records, never trees of files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from xmas_job.storage.record import Record, read_record
from xmas_job.storage.store import Store

ARTIFACTS = "artifacts"


@dataclass
class Inventory:
    """The artifacts of one store; a stage's records are read when first asked for."""

    store: Store
    _records: dict[str, dict[str, Record | None]] = field(default_factory=dict)

    def stages(self) -> list[str]:
        """Names of the stages that have made, or begun, artifacts."""
        return list(self.store.folders(ARTIFACTS))

    def of_stage(self, stage: str) -> dict[str, Record | None]:
        """Address -> record, None where nothing was committed, of one stage."""
        if stage not in self._records:
            addresses = [f"{ARTIFACTS}/{stage}/{name}" for name in self.store.folders(f"{ARTIFACTS}/{stage}")]
            self._records[stage] = {address: _record_at(self.store, address) for address in addresses}
        return self._records[stage]

    def all(self) -> dict[str, Record | None]:
        """Address -> record of every artifact."""
        return {address: record for stage in self.stages() for address, record in self.of_stage(stage).items()}

    def with_digest(self, digest: str, stage: str) -> Iterator[tuple[str, Record]]:
        """Artifacts of a stage that have this content."""
        for address, record in self.of_stage(stage).items():
            if record is not None and record.digest == digest:
                yield address, record


def _record_at(store: Store, address: str) -> Record | None:
    try:
        return read_record(store, f"{address}/record.json")
    except FileNotFoundError:
        return None
