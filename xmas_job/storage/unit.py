"""What one lease covers: a whole artifact, or one partition of it. Owns the keys below an address; reads nothing."""

from __future__ import annotations

from dataclasses import dataclass

from xmas_job.pipeline import Node


@dataclass(frozen=True)
class Unit:
    """Of a node, at its address."""

    node: Node
    address: str
    partition: int | None

    @property
    def prefix(self) -> str:
        """Where its leases and attempts lie."""
        return self.address if self.partition is None else f"{self.address}/partitions/{self.partition:06d}"

    @property
    def record_key(self) -> str:
        """Its record."""
        return f"{self.address}/record.json" if self.partition is None else f"{self.prefix}.json"

    @property
    def attempts(self) -> str:
        """Folder of its attempts, below the address."""
        return f"{self.prefix.removeprefix(self.address).lstrip('/')}/attempts".lstrip("/")

    @property
    def context(self) -> dict[str, int]:
        """What its log events say of it."""
        return {} if self.partition is None else {"partition": self.partition}
