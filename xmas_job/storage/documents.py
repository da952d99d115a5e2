"""The store's small JSON documents: read whole, or refused by name; and those whose names are numbers.

Owns what a damaged document looks like to a person. Knows nothing of what a document says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

from xmas_job.errors import BadDataError
from xmas_job.storage.store import Store

Content = TypeVar("Content")

_NUMBERED = re.compile(r"([0-9]+)\.json")


def read_document(store: Store, key: str, parse: Callable[[dict[str, Any]], Content], *, remedy: str) -> Content:
    """What `parse` makes of the JSON object stored at `key`.

    Raises:
        FileNotFoundError: if it is not there.
        BadDataError: with the remedy, if it is cut off, no JSON object, or not what `parse` expects.
    """
    data = store.read(key)
    try:
        raw = json.loads(data)
        if not isinstance(raw, dict):
            raise TypeError(f"a JSON object is expected, not {type(raw).__name__}")  # noqa: TRY301 (told below)
        return parse(raw)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise BadDataError(f"{store.uri}/{key} ({len(data)} bytes) is damaged: {what}.", remedy) from error


def newest_number(store: Store, folder: str) -> int:
    """The highest number that names a document in `folder`, 0 if there is none.

    Other names are not ours: network file systems and desktops leave files of their own in folders.
    """
    return max((number for entry in store.list(folder) if (number := number_of(entry.key))), default=0)


def number_of(key: str) -> int:
    """The number that names a document; 0 for a key that has none."""
    found = _NUMBERED.fullmatch(key.rpartition("/")[2])
    return int(found[1]) if found else 0
