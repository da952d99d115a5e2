"""Examples as ingest stored them: rows of the `examples` tables, and their images read back by digest.

Owns the way from a table row to an Example. Refuses to decide which examples a run uses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from xmas_job.data.examples import Example, Turn
from xmas_job.data.images import load_rgb
from xmas_job.errors import BadDataError
from xmas_job.storage.record import Artifact
from xmas_job.storage.schemas import EXAMPLES
from xmas_job.storage.store import Store
from xmas_job.storage.tables import read_table

_EXAMPLES_AT_ONCE = 4096

_LAST = "~"
"""Sorts after every sha256."""

LoadImage = Callable[[str], Image.Image]
"""Image URI -> RGB picture."""

PLACE = ("uid", "source_uri", "source_row")
"""What orders rows that landed more than once."""


def read_rows(ingested: Sequence[Artifact], columns: Collection[str], uids: pa.Array | None = None) -> pa.Table:
    """Chosen columns of the examples of several ingested versions, one row an example, sorted by uid.

    Of rows with the same uid the first one stays: in the order of the versions, then by landed file and place in it.

    Args:
        ingested: artifacts of the ingest stage.
        columns: names of columns of the examples table.
        uids: only these; None for all.
    """
    wanted = [name for name in EXAMPLES.names if name in {*columns, *PLACE}]
    tables = [read_table(artifact, "examples.parquet", EXAMPLES, wanted, uids=uids) for artifact in ingested]
    versions = pa.chunked_array([pa.array([index] * len(table), pa.int32()) for index, table in enumerate(tables)])
    rows = pa.concat_tables(tables).append_column("version", versions)
    rows = rows.sort_by([(name, "ascending") for name in ("uid", "version", "source_uri", "source_row")])
    return rows.filter(is_first(rows["uid"]))


def to_examples(rows: pa.Table) -> list[Example]:
    """The rows (uid, conversation, image_uris) as Examples, in their order."""
    return list(iterate_examples(rows))


def iterate_examples(rows: pa.Table) -> Iterator[Example]:
    """`to_examples`, one after the other, in memory for some thousands of them."""
    for batch in rows.select(["uid", "conversation", "image_uris"]).to_batches(max_chunksize=_EXAMPLES_AT_ONCE):
        conversations = batch["conversation"]
        # Column by column: a list of structs as Python values would be a dictionary a turn.
        turns = tuple(map(Turn, *(column.to_pylist() for column in conversations.flatten().flatten())))
        bounds = np.cumsum([0, *conversations.value_lengths().to_pylist()]).tolist()
        for uid, image_uris, (start, end) in zip(
            batch["uid"].to_pylist(), batch["image_uris"].to_pylist(), pairwise(bounds), strict=True
        ):
            yield Example(uid, turns[start:end], tuple(image_uris))


def read_examples(ingested: Sequence[Artifact], uids: pa.Array | None = None) -> tuple[list[Example], dict[str, str]]:
    """Examples sorted by uid, and the sha256 of every image they show.

    Args:
        ingested: artifacts of the ingest stage.
        uids: only these; None for all.
    """
    rows = read_rows(ingested, ["conversation", "image_uris", "image_sha256"], uids)
    return to_examples(rows), _digests(rows)


def read_partition(ingested: Sequence[Artifact], partition: int, size: int) -> tuple[list[Example], dict[str, str]]:
    """A run of the examples in (image, uid) order, so that those of one image lie together; and their images' sha256.

    Args:
        ingested: artifacts of the ingest stage.
        partition: number of the run, from 0; text-only examples are in the last ones.
        size: examples in a run.
    """
    rows = read_rows(ingested, ["image_sha256"])  # without the texts, which are most of the table
    images = [sha256[0] if sha256 else _LAST for sha256 in rows["image_sha256"].to_pylist()]
    ordered = rows.append_column("image", pa.array(images)).sort_by([("image", "ascending"), ("uid", "ascending")])
    uids = ordered["uid"].slice(partition * size, size).combine_chunks()
    rows = read_rows(ingested, ["conversation", "image_uris", "image_sha256"], uids)
    rows = rows.take(pc.index_in(uids, rows["uid"].combine_chunks()))
    return to_examples(rows), _digests(rows)


def _digests(rows: pa.Table) -> dict[str, str]:
    """Image URI -> sha256."""
    digests: dict[str, str] = {}
    for image_uris, sha256 in zip(rows["image_uris"].to_pylist(), rows["image_sha256"].to_pylist(), strict=True):
        digests.update(zip(image_uris, sha256, strict=True))
    return digests


def image_loader(store: Store, digests: dict[str, str]) -> LoadImage:
    """A function that reads an image from the store, checks its sha256 and decodes it to RGB.

    It can be sent to another process.

    Raises (from the function):
        BadDataError: if the image is gone or is not the one that was ingested.
    """
    return partial(_load_checked, store, digests)


def _load_checked(store: Store, digests: dict[str, str], uri: str) -> Image.Image:
    try:
        data = store.read_known(uri, digests[uri])
    except FileNotFoundError:
        raise _changed(f"{store.uri}/{uri} is gone") from None
    if hashlib.sha256(data).hexdigest() != digests[uri]:
        raise _changed(f"{store.uri}/{uri} has changed")
    return load_rgb(data)


def _changed(what: str) -> BadDataError:
    return BadDataError(f"{what} since it was ingested.", "Put it back, or land the data as a new version.")


def is_first(sorted_values: pa.ChunkedArray) -> pa.Array:
    """Mask of the rows whose value differs from the row before: one of each, where the values are sorted."""
    values = sorted_values.combine_chunks()
    if len(values) == 0:
        return pa.array([], pa.bool_())
    changed = pc.not_equal(values.slice(1), values.slice(0, len(values) - 1))
    return pa.concat_arrays([pa.array([True]), changed])
