"""Clearing the store: what no channel, no run at work and none of the last runs reaches.

Owns what counts. Run folders and landed data always stay; selections stay unless asked for. When something may still
be used, it stays: times are the store's own, never compared with a clock of this machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from xmas_job.commands.presence import CLEARING, CLEARING_TTL_SECONDS
from xmas_job.commands.resolve import read_run, run_ids
from xmas_job.environment import Environment
from xmas_job.errors import TryAgainError, UsageError
from xmas_job.fingerprint import Json
from xmas_job.logs import get_logger
from xmas_job.storage import channels
from xmas_job.storage.documents import number_of, read_document
from xmas_job.storage.inventory import Inventory
from xmas_job.storage.journal import outcomes, presence_key, run_key
from xmas_job.storage.lease import Lease, LeaseState, acquire, lease_key, read_lease
from xmas_job.storage.manifest import MANIFEST, REPAIR
from xmas_job.storage.reach import Reach, delete_artifact
from xmas_job.storage.record import read_record
from xmas_job.storage.roots import open_store
from xmas_job.storage.sealed import MANIFEST as SEALED
from xmas_job.storage.store import Entry, Store

logger = get_logger(__name__)

LEASE_SECONDS = 600.0
"""A lease whose heartbeat was written longer ago, by the store's clock, is nobody's."""


@dataclass(frozen=True)
class Keep:
    """What a clearing keeps beside what runs."""

    runs: int = 10
    """The last runs."""
    moves: int = 10
    """The last moves of every channel."""
    hours: float = 72.0
    """Runs of which a process started this short a time ago count as at work."""
    selections: bool = True
    """All published selections, whether or not something kept reaches them."""


@dataclass
class Item:
    """Something that goes."""

    kind: str
    name: str
    why: str
    keys: list[Entry] = field(default_factory=list)

    def to_json(self) -> dict[str, Json]:
        """As shown."""
        size = sum(entry.size for entry in self.keys)
        return {"kind": self.kind, "name": self.name, "files": len(self.keys), "bytes": size, "why": self.why}


def clear(environment: Environment, keep: Keep, *, delete: bool) -> dict[str, Json]:
    """What would go; with `delete`, it goes.

    Raises:
        TryAgainError: if another clearing is at work, or this one stood still so long that runs may go on without it.
        UsageError: if a run of another version of xmas-job may be at work.
    """
    store = open_store(environment.store_root)
    if not delete:
        plan = _Plan(store, keep)
        return _result(plan, plan.items(), deleted=False)
    lease = acquire(
        store,
        CLEARING,
        ttl_seconds=CLEARING_TTL_SECONDS,
        timeout_seconds=2 * CLEARING_TTL_SECONDS,
        is_done=lambda: False,
        work={"clearing": store.uri},
    )
    assert lease is not None
    with lease:
        # Only now: a run that is not seen here sees the lease, and waits.
        plan = _Plan(store, keep)
        items = plan.items()
        for item in items:
            _delete(store, item, lease)
    return _result(plan, items, deleted=True)


def _delete(store: Store, item: Item, lease: Lease) -> None:
    def may_go_on() -> None:
        if not lease.is_sure:
            raise TryAgainError("this clearing stood still, and runs may have gone on.", "Start it again.")

    logger.info("clearing", kind=item.kind, name=item.name)
    if item.kind == "artifact":
        delete_artifact(store, item.name, may_go_on)
        return
    for entry in sorted(item.keys, key=lambda entry: not entry.key.endswith(f"/{MANIFEST}")):
        may_go_on()
        store.delete(entry.key)


def _result(plan: _Plan, items: Sequence[Item], *, deleted: bool) -> dict[str, Json]:
    listed = [item.to_json() for item in items]
    return {
        "store": plan.store.uri,
        "deleted": deleted,
        "items": listed,
        "bytes": sum(entry.size for item in items for entry in item.keys),
        "kept_runs": sorted(plan.kept_runs),
        "num_kept_artifacts": len(plan.kept),
    }


class _Plan:
    """One look at the store."""

    def __init__(self, store: Store, keep: Keep) -> None:
        self.store = store
        self.keep = keep
        self.inventory = Inventory(store)

    @cached_property
    def now(self) -> float:
        """The store's own clock: when it says that something just written was written."""
        key = f"{CLEARING}/clock"
        self.store.put(key, b"")
        written = self.store.written_at(key)
        assert written is not None
        return written

    @cached_property
    def files(self) -> Mapping[str, list[Entry]]:
        """Address -> its objects."""
        return {address: list(self.store.list(address)) for address in self.inventory.all()}

    @cached_property
    def held(self) -> Mapping[str, LeaseState]:
        """Address -> lease, where somebody is at work."""
        found = {}
        for address, entries in self.files.items():
            for prefix in {entry.key.partition("/lease/")[0] for entry in entries if "/lease/" in entry.key}:
                numbers = [number_of(entry.key) for entry in entries if entry.key.startswith(f"{prefix}/lease/")]
                if lease := self._live(prefix, max(numbers)):
                    found[address] = lease
        return found

    @cached_property
    def active_runs(self) -> set[str]:
        """Runs that may be at work."""
        at_work = {lease.work["run"] for lease in self.held.values() if "run" in lease.work}
        return at_work | {run_id for run_id in self.runs if self._rests_seconds(run_id) < self.keep.hours * 3600}

    @cached_property
    def runs(self) -> list[str]:
        return run_ids(self.store)

    @cached_property
    def moves(self) -> list[channels.Move]:
        """The moves of all channels that count."""
        found = []
        for channel in self.store.folders("channels"):
            found += channels.history(self.store, channel)[: max(self.keep.moves, 1)]
        return found

    @cached_property
    def kept_runs(self) -> set[str]:
        return {*self.runs[: self.keep.runs], *self.active_runs, *(move.run for move in self.moves)} & set(self.runs)

    @cached_property
    def kept(self) -> set[str]:
        """Addresses that stay."""
        reach = Reach(self.inventory, set(self.held))
        for run_id in self.kept_runs:
            reach.addresses |= {outcome["address"] for outcome in outcomes(self.store, run_id)}
            self._add_nodes(reach, run_id)
        for move in self.moves:
            if address := self._published_from(move.selection):
                reach.addresses.add(address)
        reach.close()
        return reach.addresses & set(self.inventory.all())

    def items(self) -> list[Item]:
        """Everything that goes, and why."""
        return [*self._artifacts(), *self._attempts(), *self._selections()]

    def _artifacts(self) -> Iterator[Item]:
        for address, record in self.inventory.all().items():
            if address not in self.kept:
                why = "no channel and no run that is kept reaches it" if record else "was never finished"
                yield Item("artifact", address, why, self.files[address])

    def _attempts(self) -> Iterator[Item]:
        """Files of attempts that ended without a record, in artifacts that stay.

        Those of a training that is not finished stay too: the next attempt goes on from them.
        """
        for address in sorted(self.kept):
            there = {entry.key for entry in self.files[address]}
            if f"{address}/record.json" not in there and any(key.endswith(f"/{SEALED}") for key in there):
                continue
            ended: dict[str, list[Entry]] = {}
            for entry in self.files[address]:
                before, found, after = entry.key.partition("/attempts/")
                number = after.partition("/")[0]
                if found and self._live(before, int(number)) is None:
                    ended.setdefault(f"{before}/attempts/{number}", []).append(entry)
            # Read only now: an attempt may have ended with a record since its files were listed.
            named = set(self._named_files(address)) if ended else set()
            for attempt, entries in ended.items():
                if left := [entry for entry in entries if entry.key not in named]:
                    yield Item("attempt", attempt, "ended without a record", left)

    def _named_files(self, address: str) -> Iterator[str]:
        """Keys of the files that the artifact's records name at this moment."""
        for entry in self.store.list(address):
            if entry.key == f"{address}/record.json" or _is_part(entry.key, address):
                yield from (f"{address}/{file.location}" for file in read_record(self.store, entry.key).files)

    def _selections(self) -> Iterator[Item]:
        if self.keep.selections:
            return
        records = self.inventory.of_stage("publish")
        reached = {move.selection for move in self.moves}
        reached |= {
            str(record.metrics["selection_id"]) for address in self.kept if (record := records.get(address)) is not None
        }
        for selection in self.store.folders("selections"):
            if selection not in reached:
                folder = f"selections/{selection}"
                yield Item("selection", folder, "no channel and no run that is kept", list(self.store.list(folder)))

    def _add_nodes(self, reach: Reach, run_id: str) -> None:
        try:
            run = read_run(self.store, run_id)
        except UsageError as error:
            if run_id in self.active_runs:
                raise UsageError(
                    f"run {run_id} may be at work under another xmas-job: {error.message}",
                    "Clear the store once it has ended.",
                ) from None
            return  # its outcomes name what it made
        sources = {name: source.digest for name, source in run.sources.items()}
        reach.add_nodes(run.nodes, sources, may_still_find=run_id in self.active_runs)

    def _live(self, prefix: str, number: int) -> LeaseState | None:
        """The lease, if its owner may be at work."""
        try:
            lease = read_lease(self.store, prefix, number)
        except FileNotFoundError:
            return None
        written = self.store.written_at(lease_key(prefix, number))
        is_recent = written is not None and self.now - written < max(LEASE_SECONDS, 10 * lease.interval_seconds)
        return lease if is_recent and not lease.is_free else None

    def _rests_seconds(self, run_id: str) -> float:
        """How long ago, by the store's clock, a process of the run started last."""
        written = self.store.written_at(presence_key(run_id)) or self.store.written_at(run_key(run_id))
        return self.now - written if written is not None else 0.0

    def _published_from(self, selection: str) -> str | None:
        key = f"selections/{selection}/provenance.json"
        try:
            return read_document(self.store, key, lambda raw: str(raw["artifact"]), remedy=REPAIR)
        except FileNotFoundError:
            return None


def _is_part(key: str, address: str) -> bool:
    name = key.removeprefix(f"{address}/partitions/")
    return name != key and "/" not in name
