"""Deriving a published selection again from the stored signals, and comparing it byte by byte. On the CPU."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from xmas_job.config import validate_config
from xmas_job.entrypoints import load_entrypoint
from xmas_job.environment import Environment
from xmas_job.errors import BadDataError, UsageError
from xmas_job.fingerprint import Json, stage_fingerprint
from xmas_job.pipeline import SUBSET, Node, is_source, node_id
from xmas_job.runner import Run, Runner
from xmas_job.stage_io import Source, StageIO
from xmas_job.storage.documents import read_document
from xmas_job.storage.local import LocalStore
from xmas_job.storage.manifest import MANIFEST, REPAIR
from xmas_job.storage.output import Output
from xmas_job.storage.record import Artifact, Record, content_digest
from xmas_job.storage.roots import open_store
from xmas_job.storage.scratch import scratch_folder
from xmas_job.storage.store import Store

RECOMPUTED = ("pool", "cluster", "select", "publish")
"""Stages that need no GPU. What comes before them is checked against its record."""
CHUNK = 1 << 20


def recompute_selection(environment: Environment, selection: str) -> dict[str, Json]:
    """Check every artifact behind a selection against its record, and make the selection again from the signals.

    Args:
        environment: names the store; the selection has to be in it.
        selection: id, or folder or URI below the store.

    Raises:
        UsageError: if the selection is not in the store, or what it was made from is not there any more.
        BadDataError: naming everything that differs.
    """
    store = open_store(environment.store_root)
    selection_id = selection.removesuffix(MANIFEST).rstrip("/").rpartition("/")[2]
    runner = Runner(store, environment, _run_of(store, selection_id))
    wanted = node_id("publish", SUBSET)
    chain = {identifier: _stored(runner, identifier) for identifier in _ancestors(runner.run, wanted)}
    found = [difference for artifact in chain.values() for difference in _against_record(artifact)]
    if not found:  # else everything after it would differ too
        with scratch_folder(environment.scratch) as scratch:
            found = _make_again(runner, chain, scratch)
    published = store.read(f"selections/{selection_id}/{MANIFEST}")
    if chain[wanted].read(MANIFEST) != published:
        found.append(f"selections/{selection_id}/{MANIFEST} is not the one that was built in {chain[wanted].address}")
    if found:
        raise BadDataError(f"selection {selection_id} does not hold: {'; '.join(found)}.", REPAIR)
    return {
        "num_artifacts": len(chain),
        "num_checked_files": sum(len(artifact.record.files) for artifact in chain.values()),
        "recomputed": [identifier for identifier in chain if runner.run.nodes[identifier].spec.name in RECOMPUTED],
    }


def _run_of(store: Store, selection_id: str) -> Run:
    key = f"selections/{selection_id}/provenance.json"

    def parse(raw: dict[str, Any]) -> Run:
        sources = {name: Source(**source) for name, source in raw["sources"].items()}
        return Run(raw["run"], validate_config(raw["config"], where=key), sources, raw["created_at"])

    try:
        return read_document(store, key, parse, remedy=REPAIR)
    except FileNotFoundError:
        raise UsageError(
            f"{store.uri} has no {key}: a selection is derived again in the store that it was made in.",
            "Point XMAS_STORE_ROOT at that store.",
        ) from None


def _ancestors(run: Run, wanted: str) -> list[str]:
    """The node and all it is made from, every one after its inputs."""
    needed = {wanted}
    for identifier, node in reversed(run.nodes.items()):
        if identifier in needed:
            needed |= {item for items in node.inputs.values() for item in items if not is_source(item)}
    return [identifier for identifier in run.nodes if identifier in needed]


def _stored(runner: Runner, identifier: str) -> Artifact:
    artifact = runner.find(identifier)
    if artifact is None:
        raise UsageError(
            f"the output of {identifier}, from which the selection was made, is not whole in {runner.store.uri}.",
            "Give the run's command again: what is missing is built anew, with the same bytes.",
        )
    return artifact


def _against_record(artifact: Artifact) -> list[str]:
    """What of an artifact is not as its record says, in words."""
    record = artifact.record
    found = []
    inputs = {name: list(digests) for name, digests in record.inputs.items()}
    if stage_fingerprint(record.stage, record.version, record.section, inputs) != artifact.address.rpartition("/")[2]:
        found.append(f"{artifact.address}/record.json does not belong at that address")
    if content_digest(record.files) != record.digest:
        found.append(f"{artifact.address}/record.json: its digest does not follow from its files")
    for file in record.files:
        try:
            if _sha256(artifact.store, artifact.key(file.path)) != file.sha256:
                found.append(f"{artifact.key(file.path)} has other bytes than were recorded")
        except FileNotFoundError:
            found.append(f"{artifact.key(file.path)} is gone")
    return found


def _sha256(store: Store, key: str) -> str:
    digest = hashlib.sha256()
    with store.open(key) as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _make_again(runner: Runner, chain: dict[str, Artifact], scratch: Path) -> list[str]:
    """Run the CPU stages again, each on what was made again of its inputs; what comes out differently, in words."""
    made = dict(chain)
    found: list[str] = []
    for identifier, stored in chain.items():
        node = runner.run.nodes[identifier]
        if node.spec.name in RECOMPUTED:
            made[identifier] = _call(runner, node, made, scratch / node.spec.name)
            found += _compared(identifier, made[identifier].record, stored.record)
    return found


def _call(runner: Runner, node: Node, artifacts: dict[str, Artifact], folder: Path) -> Artifact:
    (folder / "files").mkdir(parents=True)
    output = Output(LocalStore(folder / "store"), "again", "attempts/1", folder / "files")
    io = StageIO(
        store=runner.store,
        output=output,
        environment=runner.environment,
        progress=lambda _done, _total: None,
        artifacts={name: tuple(artifacts[item] for item in items) for name, items in node.inputs.items()},
    )
    metrics = load_entrypoint(node.spec.entrypoint)(node.section, io)
    files = tuple(file for _, file in sorted(output.files.items()))
    record = replace(artifacts[node.id].record, files=files, digest=content_digest(files), metrics=metrics)
    return Artifact(LocalStore(folder / "store"), "again", record, node.id)


def _compared(identifier: str, again: Record, stored: Record) -> Iterable[str]:
    now, then = ({file.path: file.sha256 for file in record.files} for record in (again, stored))
    for path in sorted({*now, *then}):
        if path not in now or path not in then:
            yield f"{identifier}: {path} is {'not made any more' if path in then else 'new'}"
        elif now[path] != then[path]:
            yield f"{identifier}: {path}, derived again, has other bytes"
