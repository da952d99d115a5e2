"""What has landed, and the one run that it asks for. Reads the store; starts nothing.

An event that data has landed is only a reason to look. So events may come late, in heaps, twice or never: the run's id
follows from what lies there and what is asked for, and a run of that id is started once.
"""

from __future__ import annotations

from collections.abc import Mapping

from xmas_job.commands.resolve import landed_version
from xmas_job.config import RunConfig
from xmas_job.environment import Environment
from xmas_job.errors import NothingToDoError
from xmas_job.fingerprint import Json, digest_of
from xmas_job.storage.journal import run_key
from xmas_job.storage.roots import open_store

ID_DIGITS = 16


def run_for_landed(environment: Environment, config: RunConfig, request: Mapping[str, Json]) -> dict[str, Json]:
    """Id and literal datasets of the run for the newest landed version of every dataset.

    Args:
        environment: names the store.
        config: names the datasets.
        request: all that was asked for, as it was: the same words are the same request. Not `config`, which holds the
            defaults of this version of the package: an update would run everything again.

    Raises:
        UsageError: if a dataset has no landed version.
        NothingToDoError: if that run was started before.
    """
    store = open_store(environment.store_root)
    datasets = [landed_version(store, dataset) for dataset in config.datasets]
    run_id = f"landed-{digest_of({'request': dict(request), 'datasets': datasets})[:ID_DIGITS]}"
    if store.exists(run_key(run_id)):
        raise NothingToDoError(f"run {run_id} was started for {', '.join(datasets)}.", "Land a new version.")
    return {"run": run_id, "datasets": list(datasets)}
