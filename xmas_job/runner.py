"""Running one stage once: skip what is there, lease, call, verify, commit. Only this module knows of skipping.

Owns idempotence and the addresses of artifacts. Knows nothing of what a stage computes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import structlog

from xmas_job import __version__
from xmas_job.config import RunConfig
from xmas_job.entrypoints import load_entrypoint
from xmas_job.environment import Environment
from xmas_job.errors import MissingInputError, NothingToDoError, TryAgainError, XmasError
from xmas_job.fingerprint import Json, canonical_json
from xmas_job.logs import get_logger
from xmas_job.pipeline import Node, is_source, plan
from xmas_job.progress import ProgressCallback, ProgressEvents
from xmas_job.sections import Section
from xmas_job.stage_io import Metrics, Source, StageIO
from xmas_job.storage.journal import noted_failures, outcome_key, utc_now
from xmas_job.storage.lease import Lease, acquire, try_acquire
from xmas_job.storage.output import Output
from xmas_job.storage.record import Artifact, Record, StoredFile, content_digest, read_record
from xmas_job.storage.scratch import scratch_folder
from xmas_job.storage.store import Store
from xmas_job.storage.unit import Unit

logger = get_logger(__name__)

Status = Literal["hit", "built"]


@dataclass(frozen=True)
class Run:
    """A resolved run: literal configuration, and where and what its sources are."""

    run_id: str
    config: RunConfig
    sources: Mapping[str, Source]
    created_at: str = ""

    @cached_property
    def nodes(self) -> dict[str, Node]:
        """Node id -> node, every node after its inputs."""
        return {node.id: node for node in plan(self.config)}


@dataclass(frozen=True)
class StageResult:
    """What became of a stage: its artifact, and whether it had to be built."""

    node_id: str
    status: Status
    seconds: float
    artifact: Artifact


class Runner:
    """Builds or finds the artifacts of one run in one store."""

    def __init__(self, store: Store, environment: Environment, run: Run) -> None:
        self.store = store
        self.environment = environment
        self.run = run
        self._found: dict[str, Artifact] = {}

    # --- finding ---------------------------------------------------------------------------------------------

    def address(self, node: Node) -> str:
        """Folder of the node's artifact.

        Raises:
            MissingInputError: if an input is not built yet, so that the address is unknown.
        """
        return node.address(self.digest)

    def find(self, node_id: str) -> Artifact | None:
        """The node's artifact if it is there, with all its files; else None, also when an input is missing."""
        if node_id not in self._found:
            node = self.run.nodes[node_id]
            try:
                address = self.address(node)
            except MissingInputError:
                return None
            artifact = self._committed(node, address, f"{address}/record.json")
            if artifact is None:
                return None
            self._found[node_id] = artifact  # a record never changes, so it is looked up once
        return self._found[node_id]

    def _committed(self, node: Node, address: str, record_key: str) -> Artifact | None:
        try:
            record = read_record(self.store, record_key)
        except FileNotFoundError:
            return None
        artifact = Artifact(self.store, address, record, node.id)
        if artifact.is_whole():
            return artifact
        logger.warning("artifact has lost files, it is built anew", record=record_key)
        return None

    def digest(self, identifier: str) -> str:
        """Content digest of a node's artifact, or of a source.

        Raises:
            MissingInputError: if the node's artifact is not there.
        """
        if is_source(identifier):
            return self.run.sources[identifier].digest
        return self._input(identifier).record.digest

    def _input(self, node_id: str) -> Artifact:
        artifact = self.find(node_id)
        if artifact is None:
            raise MissingInputError(
                f"the output of {node_id} is not there.", f"Build it: xmas-job stage {node_id} --run {self.run.run_id}"
            )
        return artifact

    # --- building --------------------------------------------------------------------------------------------

    def run_stage(self, node_id: str, partition: int | None = None) -> StageResult:
        """Build the node's artifact, or find it; with `partition`, only that part of it.

        Without `partition`, a partitioned stage takes partitions until none is left, then seals: any number of
        workers may run it at once.

        Raises:
            MissingInputError: naming the command that builds what is missing.
            TryAgainError: if another worker is still at it after the stage's timeout.
        """
        started = time.monotonic()
        node = self.run.nodes[node_id]
        address = self.address(node)
        with (
            structlog.contextvars.bound_contextvars(run=self.run.run_id, stage=node_id),
            noted_failures(self.store, self.run.run_id, node_id, partition),
        ):
            if node.spec.partitioned_by and partition is None:
                artifact, status = self._run_partitions(node, address)
            else:
                artifact, status = self._run_unit(Unit(node, address, partition))
            result = StageResult(node_id, status, time.monotonic() - started, artifact)
            if partition is None:
                self._note(result)
        return result

    def assist(self, node_id: str) -> StageResult:
        """Run this machine's processes of a training whose lease another machine holds; then wait for its record.

        Raises:
            TryAgainError: if the record does not come.
        """
        started = time.monotonic()
        node = self.run.nodes[node_id]
        unit = Unit(node, self.address(node), None)
        if self.find(node_id) is None:
            with scratch_folder(self.environment.scratch) as scratch, suppress(NothingToDoError):
                self._call(unit, Output(self.store, unit.address, f"{unit.attempts}/0", scratch), lambda *_: None)
        deadline = time.monotonic() + self.environment.lease_ttl_seconds
        while (artifact := self.find(node_id)) is None:
            if time.monotonic() > deadline:
                raise TryAgainError(f"machine 0 has not committed {node_id}.", "Start the stage on all machines again.")
            time.sleep(self.environment.lease_ttl_seconds / 100)
        return StageResult(node_id, "hit", time.monotonic() - started, artifact)

    def _note(self, result: StageResult) -> None:
        """Write down in the run what became of the stage, and make its artifact visible."""
        node = self.run.nodes[result.node_id]
        if node.spec.follow_up:
            load_entrypoint(node.spec.follow_up)(result.artifact, self.run, node.key)
        outcome: Json = {
            "stage": result.node_id,
            "status": result.status,
            "seconds": round(result.seconds, 3),
            "digest": result.artifact.record.digest,
            "address": result.artifact.address,
        }
        # What this run built stays built, when another of its workers or a later try finds it.
        write = self.store.put if result.status == "built" else self.store.create
        write(outcome_key(self.run.run_id, result.node_id), canonical_json(outcome))
        logger.info("stage done", status=result.status, seconds=round(result.seconds, 2))

    def num_partitions(self, node: Node) -> int:
        """Partitions of the node: a function of its input and its section alone."""
        (input_id,) = node.inputs[node.spec.partitioned_by]
        num_examples = self._input(input_id).record.metrics["num_examples"]
        size = node.section.identity()["partition_size"]
        assert isinstance(num_examples, int)
        assert isinstance(size, int)
        return math.ceil(num_examples / size)

    def missing_partitions(self, node: Node) -> tuple[int, ...]:
        """Partitions of the node that are not there yet, or have lost files. One listing, and one read a partition."""
        address = self.address(node)
        sizes = {entry.key: entry.size for entry in self.store.list(address)}

        def is_there(partition: int) -> bool:
            key = Unit(node, address, partition).record_key
            files = read_record(self.store, key).files if key in sizes else None
            return files is not None and all(sizes.get(f"{address}/{file.location}") == file.bytes for file in files)

        return tuple(partition for partition in range(self.num_partitions(node)) if not is_there(partition))

    def _run_partitions(self, node: Node, address: str) -> tuple[Artifact, Status]:
        whole = Unit(node, address, None)
        if artifact := self._committed(node, address, whole.record_key):
            return artifact, "hit"
        units = [Unit(node, address, partition) for partition in range(self.num_partitions(node))]
        held_by_others = []
        for done, unit in enumerate(units):
            if self._run_unit_if_free(unit) is None:
                held_by_others.append(unit)
            logger.info("partition done", done=done + 1 - len(held_by_others), total=len(units))
        parts = {unit.partition: self._run_unit(unit)[0] for unit in held_by_others}
        parts |= {unit.partition: self._run_unit(unit)[0] for unit in units if unit.partition not in parts}
        return self._seal(whole, [parts[unit.partition].record for unit in units])

    def _seal(self, whole: Unit, parts: Sequence[Record]) -> tuple[Artifact, Status]:
        """One record for all partitions: their files, and the sums of their counts."""
        metrics: dict[str, Json] = {}
        for part in parts:
            for name, value in part.metrics.items():
                total = metrics.get(name, 0)
                assert isinstance(value, int | float), f"{whole.node.id}: metric {name} of a partition is no count"
                assert isinstance(total, int | float)
                metrics[name] = total + value
        files = {file.path: file for part in parts for file in part.files}
        record = self._record(whole.node, whole.address, files, metrics)
        seconds = sum(float(str(part.provenance["seconds"])) for part in parts)
        return self._commit(whole, replace(record, provenance={**record.provenance, "seconds": seconds}))

    def _run_unit_if_free(self, unit: Unit) -> Artifact | None:
        if artifact := self._committed(unit.node, unit.address, unit.record_key):
            return artifact
        lease = try_acquire(self.store, unit.prefix, self.environment.lease_ttl_seconds, self._work(unit))
        return self._build(unit, lease)[0] if lease else None

    def _run_unit(self, unit: Unit) -> tuple[Artifact, Status]:
        def committed() -> Artifact | None:
            return self._committed(unit.node, unit.address, unit.record_key)

        lease = acquire(
            self.store,
            unit.prefix,
            ttl_seconds=self.environment.lease_ttl_seconds,
            timeout_seconds=self.environment.stage_timeout_seconds,
            is_done=lambda: committed() is not None,
            work=self._work(unit),
        )
        if lease is not None:
            return self._build(unit, lease)
        artifact = committed()
        assert artifact is not None
        return artifact, "hit"

    def _work(self, unit: Unit) -> dict[str, str]:
        """What a lease is for: who looks on learns it from the lease, and what is at work is not cleared away."""
        context = {name: str(value) for name, value in unit.context.items()}
        return {"run": self.run.run_id, "stage": unit.node.id, **context}

    def _build(self, unit: Unit, lease: Lease) -> tuple[Artifact, Status]:
        with (
            lease,
            scratch_folder(self.environment.scratch) as scratch,
            structlog.contextvars.bound_contextvars(attempt=lease.number, **unit.context),
        ):
            if artifact := self._committed(unit.node, unit.address, unit.record_key):
                return artifact, "hit"
            logger.info("stage started")
            started = time.monotonic()
            output = Output(self.store, unit.address, f"{unit.attempts}/{lease.number}", scratch)
            metrics = self._call(unit, output, lease.show_progress)
            record = self._record(unit.node, unit.address, output.files, metrics)
            cost: dict[str, Json] = {"seconds": round(time.monotonic() - started, 3), "attempt": lease.number}
            committed = self._commit(unit, replace(record, provenance={**record.provenance, **cost}))
            for clear_away in output.after_commit:
                clear_away()
            return committed

    def _call(self, unit: Unit, output: Output, show_progress: ProgressCallback) -> Metrics:
        node = unit.node
        events = ProgressEvents(self.environment.progress_seconds)

        def progress(done: int, total: int) -> None:
            show_progress(done, total)
            events(done, total)

        function: Callable[[Section, StageIO], Metrics] = load_entrypoint(node.spec.entrypoint)
        artifacts: dict[str, tuple[Artifact, ...]] = {}
        found: dict[str, tuple[Source, ...]] = {}
        for name, items in node.inputs.items():
            if any(is_source(item) for item in items):
                found[name] = tuple(self.run.sources[item] for item in items)
            else:
                artifacts[name] = tuple(self._input(item) for item in items)
        io = StageIO(
            store=self.store,
            output=output,
            environment=self.environment,
            progress=progress,
            partition=unit.partition,
            artifacts=artifacts,
            sources=found,
        )
        try:
            return function(node.section, io)
        except XmasError as error:
            logger.error("stage failed", error=error.message, remedy=error.remedy)  # noqa: TRY400 (expected: no trace)
            raise

    def _record(self, node: Node, address: str, files: Mapping[str, StoredFile], metrics: Metrics) -> Record:
        stored = tuple(file for _, file in sorted(files.items()))
        return Record(
            stage=node.spec.name,
            version=node.spec.version,
            fingerprint=address.rpartition("/")[2],
            section=node.section.identity(),
            inputs={name: tuple(self.digest(item) for item in items) for name, items in node.inputs.items()},
            files=stored,
            digest=content_digest(stored),
            metrics=metrics,
            provenance={"created_at": utc_now(), "xmas_job": __version__},
        )

    def _commit(self, unit: Unit, record: Record) -> tuple[Artifact, Status]:
        while not self.store.create(unit.record_key, record.to_bytes()):
            # Another worker was first: its bytes are what everybody reads, unless some of them are lost.
            if winner := self._committed(unit.node, unit.address, unit.record_key):
                logger.info("another worker committed first", digest=winner.record.digest[:12])
                return winner, "hit"
            self.store.delete(unit.record_key)
        return Artifact(self.store, unit.address, record, unit.node.id), "built"
