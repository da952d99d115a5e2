"""Choosing the store by the scheme of its root."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from xmas_job.entrypoints import load_entrypoint
from xmas_job.environment import Environment, load_environment
from xmas_job.errors import UsageError
from xmas_job.storage.local import LocalStore
from xmas_job.storage.store import Store


def open_store(root: str, environment: Environment | None = None) -> Store:
    """The store at `root`: a path, a file:// URI or s3://bucket/prefix, the latter by the XMAS_S3_* variables.

    Args:
        root: where it is.
        environment: holds those variables; None: as they are.

    Raises:
        UsageError: for another scheme, or if the variables are wrong.
    """
    scheme = urlsplit(root).scheme
    if scheme == "file":
        return LocalStore(Path(unquote(urlsplit(root).path)))
    if scheme == "s3":
        # By name: the client takes a quarter of a second to import, and a folder does not need it.
        store: Store = load_entrypoint("xmas_job.storage.s3:S3Store")(root, environment or load_environment())
        return store
    if not scheme:
        return LocalStore(Path(root))
    raise UsageError(
        f"store root {root!r}: there is no store for {scheme}://.", "Give a folder, a file:// or an s3:// URI."
    )
