"""extract: signals of one partition of a dataset version, at every checkpoint of the proxy."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from xmas_job.config import ExtractConfig
from xmas_job.data.stored import image_loader, read_rows, to_examples
from xmas_job.extraction.layout import absent_path, signal_path
from xmas_job.extraction.loop import ExtractionSettings, SignalPart, extract_partition
from xmas_job.extraction.signals import Request
from xmas_job.models.hardware import apply_hardware
from xmas_job.stage_io import Metrics, StageIO
from xmas_job.storage.record import Artifact
from xmas_job.storage.schemas import ABSENT, signal_schema
from xmas_job.storage.sealed import require_sealed

CHECKPOINT_FOLDER = re.compile(r"^checkpoint-(\d+)/")
LAST = "~"
"""Sorts after every sha256: text-only examples come last."""
MOST_LOADERS = 4
"""Beside one GPU, if the machine has as many cores. Choice: not measured beside one."""


def run(section: ExtractConfig, io: StageIO) -> Metrics:
    """Write the partition's signals for checkpoints 1..T, and for each the examples without it, with the reason."""
    assert io.partition is not None
    dtype = apply_hardware(section.hardware)
    rows = _partition(io.artifacts["ingest"], section, io.partition)
    digests = dict(
        pair
        for uris, sha256 in zip(rows["image_uris"].to_pylist(), rows["image_sha256"].to_pylist(), strict=True)
        for pair in zip(uris, sha256, strict=True)
    )
    computed = extract_partition(
        _checkpoints(io.artifact("proxy")),
        to_examples(rows),
        image_loader(io.store, digests),
        ExtractionSettings(
            max_length=section.max_length,
            request=Request(section.signals, section.alignment, section.coincide_layers),
            token_budget=section.token_budget,
            share_prefixes=section.share_prefixes,
            dtype=dtype,
            device=section.hardware.device,
            num_loaders=num_loaders(io.environment.loaders, section.hardware.device),
        ),
        io.progress,
    )
    for signal, by_checkpoint in computed.parts.items():
        for checkpoint, part in by_checkpoint.items():
            path = signal_path(checkpoint, io.partition, signal)
            io.output.table(path, _table(part), signal_schema(part.values.shape[1]))
        absent = [{"uid": uid, "reason": reason} for uid, reason in computed.absent[signal]]
        io.output.table(absent_path(io.partition, signal), pa.Table.from_pylist(absent, ABSENT), ABSENT)
    num_absent = max(len(absent) for absent in computed.absent.values())
    return {
        "num_examples": rows.num_rows,
        "num_scored": rows.num_rows - num_absent,
        "num_absent": num_absent,
        "num_split_batches": computed.num_splits,
    }


def num_loaders(asked: int | None, device: str) -> int:
    """Processes that load ahead: as asked, else enough for a GPU not to wait."""
    if asked is not None:
        return asked
    return 0 if device == "cpu" else min(MOST_LOADERS, os.cpu_count() or 1)


def _partition(ingested: Sequence[Artifact], section: ExtractConfig, partition: int) -> pa.Table:
    """A run of the version's examples in (image, uid) order: examples of one image lie together."""
    rows = read_rows(ingested, ["image_sha256"])  # without the texts, which are most of the table
    images = [sha256[0] if sha256 else LAST for sha256 in rows["image_sha256"].to_pylist()]
    ordered = rows.append_column("image", pa.array(images)).sort_by([("image", "ascending"), ("uid", "ascending")])
    uids = ordered["uid"].slice(partition * section.partition_size, section.partition_size).combine_chunks()
    rows = read_rows(ingested, ["conversation", "image_uris", "image_sha256"], uids)
    return rows.take(pc.index_in(uids, rows["uid"].combine_chunks()))


def _checkpoints(proxy: Artifact) -> dict[int, Path]:
    """Folders of checkpoints 1..T; checkpoint 0, before training, is no part of a trajectory.

    Raises:
        BadDataError: one was never finished, or lost a file.
    """
    indices = {int(match[1]) for path in proxy.paths if (match := CHECKPOINT_FOLDER.match(path))}
    folders = {index: proxy.local_folder(f"checkpoint-{index:04d}") for index in sorted(indices - {0})}
    for folder in folders.values():
        require_sealed(folder, "Train the proxy again: xmas-job stage train_proxy.")
    return folders


def _table(part: SignalPart) -> pa.Table:
    values = pa.FixedSizeListArray.from_arrays(pa.array(part.values.ravel(), pa.float32()), part.values.shape[1])
    return pa.table(
        {
            "uid": pa.array(part.uids, pa.string()),
            "value": values,
            "num_text_tokens": part.num_text_tokens,
            "num_image_tokens": part.num_image_tokens,
        }
    )
