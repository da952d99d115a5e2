"""Examples as ingest stored them: rows of the `examples` tables, and their images read back by digest.

Owns the way from a table row to an Example. Refuses to decide which examples a run uses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from functools import partial

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

LoadImage = Callable[[str], Image.Image]
"""Image URI -> RGB picture."""

PLACE = ("uid", "source_uri", "source_row")
"""What orders rows that landed more than once."""


def read_rows(ingested: Sequence[Artifact], columns: Collection[str]) -> pa.Table:
    """Chosen columns of the examples of several ingested versions, one row an example, sorted by uid.

    Of rows with the same uid the first one stays: in the order of the versions, then by landed file and place in it.
    """
    wanted = [name for name in EXAMPLES.names if name in {*columns, *PLACE}]
    tables = [read_table(artifact, "examples.parquet", EXAMPLES, wanted) for artifact in ingested]
    versions = pa.chunked_array([pa.array([index] * len(table), pa.int32()) for index, table in enumerate(tables)])
    rows = pa.concat_tables(tables).append_column("version", versions)
    rows = rows.sort_by([(name, "ascending") for name in ("uid", "version", "source_uri", "source_row")])
    return rows.filter(_is_first(rows["uid"]))


def to_examples(rows: pa.Table) -> list[Example]:
    """The rows (uid, conversation, image_uris) as Examples, in their order."""
    return [
        Example(
            uid=uid,
            turns=tuple(Turn(turn["role"], turn["text"], turn["num_images"]) for turn in conversation),
            image_uris=tuple(image_uris),
        )
        for uid, conversation, image_uris in zip(
            rows["uid"].to_pylist(), rows["conversation"].to_pylist(), rows["image_uris"].to_pylist(), strict=True
        )
    ]


def read_examples(ingested: Sequence[Artifact], uids: pa.Array | None = None) -> tuple[list[Example], dict[str, str]]:
    """Examples sorted by uid, and the sha256 of every image they show.

    Args:
        ingested: artifacts of the ingest stage.
        uids: only these; None for all.
    """
    rows = read_rows(ingested, ["conversation", "image_uris", "image_sha256"])
    if uids is not None:
        rows = rows.filter(pc.is_in(rows["uid"], pa.array(uids, pa.string())))
    digests: dict[str, str] = {}
    for image_uris, sha256 in zip(rows["image_uris"].to_pylist(), rows["image_sha256"].to_pylist(), strict=True):
        digests.update(zip(image_uris, sha256, strict=True))
    return to_examples(rows), digests


def image_loader(store: Store, digests: dict[str, str]) -> LoadImage:
    """A function that reads an image from the store, checks its sha256 and decodes it to RGB.

    It can be sent to another process.

    Raises (from the function):
        BadDataError: if the image is gone or is not the one that was ingested.
    """
    return partial(_load_checked, store, digests)


def _load_checked(store: Store, digests: dict[str, str], uri: str) -> Image.Image:
    try:
        data = store.read(uri)
    except FileNotFoundError:
        raise _changed(f"{store.uri}/{uri} is gone") from None
    if hashlib.sha256(data).hexdigest() != digests[uri]:
        raise _changed(f"{store.uri}/{uri} has changed")
    return load_rgb(data)


def _changed(what: str) -> BadDataError:
    return BadDataError(f"{what} since it was ingested.", "Put it back, or land the data as a new version.")


def _is_first(sorted_values: pa.ChunkedArray) -> pa.Array:
    """Mask of the rows whose value differs from the row before."""
    values = sorted_values.combine_chunks()
    if len(values) == 0:
        return pa.array([], pa.bool_())
    changed = pc.not_equal(values.slice(1), values.slice(0, len(values) - 1))
    return pa.concat_arrays([pa.array([True]), changed])
