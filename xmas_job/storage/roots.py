"""Choosing the store by the scheme of its root."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from xmas_job.errors import UsageError
from xmas_job.storage.local import LocalStore
from xmas_job.storage.store import Store


def open_store(root: str) -> Store:
    """The store at `root`: a path or a file:// URI.

    Raises:
        UsageError: for another scheme.
    """
    scheme = urlsplit(root).scheme
    if scheme == "file":
        return LocalStore(Path(unquote(urlsplit(root).path)))
    if not scheme:
        return LocalStore(Path(root))
    raise UsageError(f"store root {root!r}: there is no store for {scheme}://.", "Give a folder or a file:// URI.")
