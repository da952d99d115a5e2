"""Proving a published selection offline, from its files alone."""

from __future__ import annotations

from xmas_job.environment import Environment
from xmas_job.errors import UsageError
from xmas_job.fingerprint import Json
from xmas_job.storage.manifest import MANIFEST, parse_manifest, verify_files
from xmas_job.storage.roots import open_store


def verify_selection(environment: Environment, selection: str) -> dict[str, Json]:
    """Check the manifest against its id and every file against the manifest.

    Args:
        environment: names the store in which an id is looked up.
        selection: id of a selection in the store, or the folder, file:// or s3:// URI of one.

    Raises:
        UsageError: if there is no selection.
        BadDataError: naming the file that is not what it should be.
    """
    is_id = "/" not in selection
    where = (
        f"{environment.store_root.rstrip('/')}/selections/{selection}" if is_id else selection.removesuffix(MANIFEST)
    )
    store = open_store(where)
    try:
        data = store.read(MANIFEST)
    except FileNotFoundError:
        raise UsageError(f"there is no {MANIFEST} in {store.uri}.", "Give a selection's id, folder or URI.") from None
    manifest = parse_manifest(data, where=f"{store.uri}/{MANIFEST}")
    num_files = verify_files(manifest, store.read, where=store.uri)
    return {"selection": manifest.selection_id, "num_files": num_files, "num_examples": manifest.resolved.num_examples}
