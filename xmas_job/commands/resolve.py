"""Resolving a request once: which versions, which models, by content. Later tasks read run.json and nothing else."""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from xmas_job import pipeline
from xmas_job.commands.presence import enter
from xmas_job.config import RunConfig, validate_config
from xmas_job.environment import Environment
from xmas_job.errors import UsageError
from xmas_job.fingerprint import Json, canonical_json, digest_of_folder
from xmas_job.runner import Run
from xmas_job.stage_io import Source, locate, model_folder
from xmas_job.storage.documents import Content, read_document
from xmas_job.storage.journal import recipe_key, run_key, utc_now
from xmas_job.storage.landing import SUCCESS, landing_digest, landing_prefix
from xmas_job.storage.probe import probe
from xmas_job.storage.roots import open_store
from xmas_job.storage.selectors import CARD, read_card, require_encoder
from xmas_job.storage.store import Store

MODEL_CONFIG = "config.json"
MARKERS = {"model:selector": CARD}
"""File by which the folder of a source is known, where it is no transformers model."""
RUN_ID_PATTERN = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,199}$")


def new_run_id() -> str:
    """Sortable by time, and not to be met twice."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"


def resolve_run(config: RunConfig, store: Store, run_id: str, known: Mapping[str, Source] | None = None) -> Run:
    """Fill in what the request leaves open, without writing anything.

    Args:
        config: what is asked for.
        store: where data has landed.
        run_id: of the run.
        known: sources that were looked at already, for runs that share them.

    Raises:
        UsageError: if a dataset has not landed, a model folder is not there, or a selector is another encoder's.
    """
    literal = _with_versions(config, store)
    known = known or {}
    found = {
        identifier: known.get(identifier) or _source(store, literal, identifier, name)
        for identifier, name in pipeline.sources(literal).items()
    }
    if "model:selector" in found:
        selector, encoder = found["model:selector"], found["model:encoder"]
        card = read_card(model_folder(store, selector.uri))
        require_encoder(card, encoder.digest, selector=selector.uri, encoder=encoder.uri)
    return Run(run_id, literal, found, utc_now())


def start_run(config: RunConfig, store: Store, run_id: str, known: Mapping[str, Source] | None = None) -> Run:
    """Resolve the request and write it down; a run that was started goes on with what was resolved then.

    Args:
        config: what is asked for.
        store: where.
        run_id: of the run.
        known: as of `resolve_run`.

    Raises:
        UsageError: as `resolve_run`, or if the run was started with another configuration, or if the store does not
            keep create-only puts.
    """
    key = run_key(checked_id(run_id))
    if not store.exists(key):
        probe(store)
        store.create(key, canonical_json(_to_json(config, resolve_run(config, store, run_id, known))) + b"\n")
    enter(store, run_id)
    request = _read(store, run_id, lambda raw: validate_config(raw["request"], where=f"run {run_id}"))
    if request != config:
        raise UsageError(f"run {run_id} was started with another configuration.", "Choose another run id.")
    started = read_run(store, run_id)
    recipe = yaml.safe_dump(started.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    store.create(recipe_key(run_id), recipe.encode())
    return started


def read_recipe(uri: str) -> bytes:
    """Content of a recipe that lies in a store, such as the one every run leaves behind.

    Raises:
        UsageError: if there is none at `uri`.
    """
    folder, _, name = uri.rpartition("/")
    try:
        return open_store(folder).read(name)
    except (FileNotFoundError, ValueError):
        raise UsageError(f"there is no recipe at {uri}.", "Give a file, a file:// or an s3:// URI.") from None


def start(environment: Environment, config: RunConfig, run_id: str) -> dict[str, Json]:
    """For launchers: start the run and name its stages, every one after its inputs."""
    run = start_run(config, open_store(environment.store_root), run_id)
    return {"run": run.run_id, "stages": list(run.nodes)}


def read_run(store: Store, run_id: str) -> Run:
    """A run that was started.

    Raises:
        UsageError: if there is none of that id.
    """

    def parse(raw: dict[str, Any]) -> Run:
        found = {name: Source(**source) for name, source in raw["sources"].items()}
        return Run(raw["run_id"], validate_config(raw["config"], where=f"run {run_id}"), found, raw["created_at"])

    try:
        checked_id(run_id)
        return _read(store, run_id, parse)
    except FileNotFoundError:
        raise UsageError(
            f"there is no run {run_id!r} in {store.uri}.", "See `xmas-job show` for the last one."
        ) from None


def _read(store: Store, run_id: str, parse: Callable[[dict[str, Any]], Content]) -> Content:
    remedy = f"Restore it from a copy, or delete the folder runs/{run_id}: a new run finds what this one built."
    return read_document(store, run_key(run_id), parse, remedy=remedy)


def latest_run_id(store: Store) -> str:
    """Id of the run that was started last.

    Raises:
        UsageError: if the store has no run.
    """
    started = run_ids(store)
    if not started:
        raise UsageError(f"there is no run in {store.uri}.", "Start one: xmas-job run --recipe demo")
    return started[0]


def run_ids(store: Store) -> list[str]:
    """Ids of all runs, the one that was started last first."""
    started = []
    for run_id in store.folders("runs"):
        with contextlib.suppress(FileNotFoundError):  # a folder without it is no run
            started.append((_read(store, run_id, lambda raw: str(raw["created_at"])), run_id))
    return [run_id for _, run_id in sorted(started, reverse=True)]


def _to_json(request: RunConfig, run: Run) -> Mapping[str, Json]:
    return {
        "request": request.model_dump(mode="json"),
        "run_id": run.run_id,
        "created_at": run.created_at,
        "config": run.config.model_dump(mode="json"),
        "sources": {name: {"uri": source.uri, "digest": source.digest} for name, source in run.sources.items()},
    }


def checked_id(run_id: str) -> str:
    """The id of a run or a comparison, if it can be part of a key.

    Raises:
        UsageError: if it cannot.
    """
    if not RUN_ID_PATTERN.fullmatch(run_id):
        raise UsageError(
            f"run id {run_id!r} is longer than 200 characters or has some that are no part of a key.",
            "Use letters, digits and _.+-",
        )
    return run_id


def _with_versions(config: RunConfig, store: Store) -> RunConfig:
    data = config.model_dump()
    data["datasets"] = tuple(landed_version(store, dataset) for dataset in config.datasets)
    if config.comparison:
        data["comparison"]["evaluate"]["dataset"] = landed_version(store, config.comparison.evaluate.dataset)
    return validate_config(data, where="with the landed versions filled in")


def landed_version(store: Store, dataset: str) -> str:
    """The dataset as name@version: as asked for, or the newest version that has landed whole.

    Raises:
        UsageError: if it has not landed.
    """
    name, _, version = dataset.partition("@")
    folder = f"landing/{name}"
    landed = {found for found in store.folders(folder) if store.exists(f"{folder}/{found}/{SUCCESS}")}
    if not landed:
        raise UsageError(
            f"dataset {name!r} has no landed version in {store.uri}/landing (a version counts once it has {SUCCESS}).",
            "Land it there, or run `xmas-job demo land` for the demo.",
        )
    if version and version not in landed:
        raise UsageError(
            f"dataset {name!r} has no landed version {version!r}.",
            f"Landed: {', '.join(sorted(landed, key=_natural))}.",
        )
    return f"{name}@{version or max(landed, key=_natural)}"


def _natural(version: str) -> list[tuple[bool, int, str]]:
    """Order in which v10 comes after v9."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", version)]


def _source(store: Store, config: RunConfig, identifier: str, name: str) -> Source:
    if identifier.startswith("landing:"):
        return _landing(store, config, name)
    return _model(store, name, identifier)


def _landing(store: Store, config: RunConfig, dataset: str) -> Source:
    prefix = landing_prefix(dataset)
    return Source(prefix, landing_digest(store, prefix, pipeline.image_root(config, dataset)))


def find_model(store: Store, name: str, identifier: str = "") -> str:
    """Where the model is: the absolute path of its folder, its key in the store, or its URI. Reads nothing of it.

    Raises:
        UsageError: if it is no model folder.
    """
    marker = MARKERS.get(identifier, MODEL_CONFIG)
    folder = Path(name).expanduser()
    if folder.is_dir() or folder.is_absolute() or ".." in folder.parts:
        uri, is_there = str(folder.absolute()), (folder / marker).is_file()
    else:
        home, key = locate(store, name)
        uri, is_there = name, home.exists(f"{key}/{marker}")  # before anything of it is fetched
    if not is_there:
        what = "trained selector" if identifier in MARKERS else "model"
        raise UsageError(
            f"{name!r} is no {what} folder: there is no {marker} in {folder.absolute()} or {store.uri}/{name}.",
            f"Give the folder of a {'' if identifier in MARKERS else 'transformers '}{what}: a path, or a key under "
            "the store root.",
        )
    return uri


def _model(store: Store, name: str, identifier: str) -> Source:
    uri = find_model(store, name, identifier)
    return Source(uri, digest_of_folder(model_folder(store, uri)))
