"""Signals as the stages left them, in parts by partition and checkpoint, joined into one array by uid.

Numbers are held in memory. Vectors go into one memory-mapped file in the stage's scratch folder, part by part: the
store has Parquet, which cannot be mapped, and N x D may be larger than the memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from xmas_job.catalog.methods import SignalNeed
from xmas_job.catalog.needs import steps_of
from xmas_job.catalog.signals import SIGNALS
from xmas_job.core.trajectory import alignment_scores
from xmas_job.data.stored import is_first
from xmas_job.errors import BadDataError
from xmas_job.extraction.layout import absent_paths, checkpoints_of, signal_paths
from xmas_job.storage.record import Artifact
from xmas_job.storage.schemas import ABSENT, POOL
from xmas_job.storage.tables import array_of, read_table

# N wanted examples, S steps (checkpoints), D values an example

Score = Literal["sum", "values"]


def uids_with_image(pool: Artifact) -> pa.Array:
    """Uids of the pool's examples with an image, sorted."""
    table = read_table(pool, "pool.parquet", POOL, ["uid", "modality"])
    return table.filter(pc.equal(table["modality"], "image"))["uid"].combine_chunks()


def read_absent(artifacts: Sequence[Artifact], signals: Iterable[str], wanted: pa.Array) -> pa.Table:
    """Wanted examples without one of the signals, with a reason each, sorted by uid."""
    paths = [
        (artifact, path) for signal in signals for artifact in artifacts for path in absent_paths(artifact, signal)
    ]
    return first_reasons([read_table(artifact, path, ABSENT) for artifact, path in paths], wanted)


def first_reasons(tables: Sequence[pa.Table], wanted: pa.Array) -> pa.Table:
    """Rows of wanted examples, one a uid, sorted."""
    # The same example may have landed in two versions, or lack two signals.
    table = pa.concat_tables([ABSENT.empty_table(), *tables])
    table = table.filter(pc.is_in(table["uid"], wanted)).sort_by("uid").combine_chunks()
    return table.filter(is_first(table["uid"]))


def without(wanted: pa.Array, absent: pa.Table) -> pa.Array:
    """The wanted uids that are not absent.

    Raises:
        BadDataError: if none is left.
    """
    present = wanted.filter(pc.invert(pc.is_in(wanted, absent["uid"].combine_chunks())))
    if len(present) == 0 and len(wanted) > 0:
        reasons = ", ".join(sorted(set(absent["reason"].to_pylist())))
        raise BadDataError(
            f"none of the {len(wanted)} examples with an image has the signals of the method: {reasons}.",
            "Raise extract.max_length if their images or answers are cut off.",
        )
    return present


def join_signal(
    artifacts: Sequence[Artifact], need: SignalNeed, wanted: pa.Array, scratch: Path, score: Score = "sum"
) -> NDArray[np.float32]:
    """Values of the wanted examples, in their order.

    Args:
        artifacts: of the stage that computes the signal, in the order in which versions are read; of an example that
            landed twice, the first one's value counts.
        need: the signal, and at which checkpoints.
        wanted: uids, every one with a value; sorted, distinct.
        scratch: folder for what is memory-mapped.
        score: whether the values of alignment are summed.

    Returns:
        Shape (N,) of a number at one checkpoint, (N, S) at several; (N, D) or (N, S, D) of vectors, and of alignment's
        values where they are not summed (always with S).

    Raises:
        BadDataError: if an example has no value at one of the checkpoints.
    """
    is_vector = SIGNALS[need.signal].is_vector
    is_summed = need.signal == "alignment" and score == "sum"
    steps, keys = _steps(artifacts, need), _keys(wanted)
    array: NDArray[np.float32] | None = None
    first: NDArray[np.bool_] | None = None
    for place, checkpoint in enumerate(steps):
        has_value = np.zeros(len(wanted), dtype=bool)
        for rows, values in _parts(artifacts, need.signal, checkpoint, keys):
            is_new = ~has_value[rows]
            block = alignment_scores(values)[:, None] if is_summed else values
            if array is None:
                shape = len(wanted), len(steps), block.shape[1]
                array = mapped_array(scratch / need.signal, shape) if is_vector else np.zeros(shape, dtype=np.float32)
            if block.shape[1] != array.shape[2]:
                raise BadDataError(
                    f"signal {need.signal!r} has {block.shape[1]} values in one part and {array.shape[2]} in another.",
                    "Datasets of one run need one width: see extract.alignment, or the models' configuration.",
                )
            array[rows[is_new], place] = block[is_new]
            has_value[rows] = True
        first = has_value if first is None else first
        if (has_value != first).any():
            raise BadDataError(
                f"checkpoint {checkpoint} has values of {need.signal!r} of other examples.", "Run the stage again."
            )
    assert first is not None
    if not first.all():
        raise BadDataError(
            f"of {len(wanted)} examples, {int((~first).sum())} have neither a value of {need.signal!r} nor a reason.",
            f"Run the {SIGNALS[need.signal].stage} stage again.",
        )
    return _squeezed(array, need, score)


def _squeezed(array: NDArray[np.float32] | None, need: SignalNeed, score: Score) -> NDArray[np.float32]:
    if array is None:  # nobody is wanted
        array = np.zeros((0, 1, 1), dtype=np.float32)
    keeps_values = SIGNALS[need.signal].is_vector or (need.signal == "alignment" and score == "values")
    values = array if keeps_values else array[:, :, 0]
    is_one_step = need.checkpoints in {"none", "last"}
    return values[:, 0] if is_one_step and not (need.signal == "alignment" and score == "values") else values


def _keys(uids: pa.Array | pa.ChunkedArray) -> NDArray[np.bytes_]:
    """Uids, which are ASCII, as numpy compares them fast."""
    return np.asarray(uids.to_numpy(zero_copy_only=False) if isinstance(uids, pa.Array) else uids.to_numpy(), dtype="S")


def _steps(artifacts: Sequence[Artifact], need: SignalNeed) -> tuple[int | None, ...]:
    if need.checkpoints == "none":
        return (None,)
    there = sorted({step for artifact in artifacts for step in checkpoints_of(artifact, need.signal)})
    if not there:
        raise BadDataError(
            f"there are no values of {need.signal!r}.", f"Run the {SIGNALS[need.signal].stage} stage again."
        )
    return steps_of(need.checkpoints, there)


def _parts(
    artifacts: Sequence[Artifact], signal: str, checkpoint: int | None, wanted: NDArray[np.bytes_]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Of each part the places of its examples among the wanted ones, and their values (n, D); one part is held."""
    for artifact in artifacts:
        for path in signal_paths(artifact, checkpoint, signal):
            table = read_table(artifact, path, columns=["uid", "value"])
            own = _keys(table["uid"])
            # Not arrow's index_in: it would hash all that is wanted for every part.
            places = np.searchsorted(wanted, own)
            is_wanted = wanted[np.minimum(places, wanted.size - 1)] == own if wanted.size else np.zeros(own.size, bool)
            if is_wanted.any():
                yield places[is_wanted], array_of(table["value"])[is_wanted]


def mapped_array(path: Path, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """An array in a new file: read and written through the page cache, never held."""
    return np.memmap(path, dtype=np.float32, mode="w+", shape=shape)
