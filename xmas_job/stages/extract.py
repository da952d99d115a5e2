"""extract: signals of one partition of a dataset version, each at the checkpoints of the proxy where it is wanted."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from xmas_job.catalog.needs import parse_needs, steps_of
from xmas_job.data.examples import Example
from xmas_job.data.stored import image_loader, read_partition
from xmas_job.extraction.layout import absent_path, signal_path
from xmas_job.extraction.loop import ExtractionSettings, SignalPart, extract_partition
from xmas_job.extraction.signals import Request
from xmas_job.fingerprint import Json
from xmas_job.models.hardware import apply_hardware, device_name
from xmas_job.sections import ExtractConfig
from xmas_job.stage_io import Metrics, StageIO
from xmas_job.stages.costs import extraction_costs
from xmas_job.storage.record import Artifact
from xmas_job.storage.schemas import ABSENT, signal_schema
from xmas_job.storage.sealed import require_sealed

CHECKPOINT_FOLDER = re.compile(r"^checkpoint-(\d+)/")
MOST_LOADERS = 4
"""Beside one GPU, if the machine has as many cores. Choice: not measured beside one."""


def run(section: ExtractConfig, io: StageIO) -> Metrics:
    """Write the partition's signals by checkpoint, and for each the examples without it, with the reason."""
    assert io.partition is not None
    dtype = apply_hardware(section.hardware)
    examples, digests = read_partition(io.artifacts["ingest"], io.partition, section.partition_size)
    proxy = io.artifact("proxy")
    there = [int(match[1]) for path in proxy.paths if (match := CHECKPOINT_FOLDER.match(path))]
    steps = {need.signal: steps_of(need.checkpoints, there) for need in parse_needs(section.signals)}
    folders = {t: _checkpoint(proxy, t) for t in sorted(set().union(*steps.values()))}
    begin = time.monotonic()
    computed = extract_partition(
        folders,
        examples,
        image_loader(io.store, digests),
        ExtractionSettings(
            max_length=section.max_length,
            request=Request(tuple(steps), section.alignment, section.coincide_layers),
            token_budget=section.token_budget,
            share_prefixes=section.share_prefixes,
            dtype=dtype,
            device=section.hardware.device,
            num_loaders=num_loaders(io.environment.loaders, section.hardware.device),
            steps=steps,
        ),
        io.progress,
    )
    seconds = time.monotonic() - begin
    for signal, by_checkpoint in computed.parts.items():
        for checkpoint, part in by_checkpoint.items():
            path = signal_path(checkpoint, io.partition, signal)
            io.output.table(path, _table(part), signal_schema(part.values.shape[1]))
        absent = [{"uid": uid, "reason": reason} for uid, reason in computed.absent[signal]]
        io.output.table(absent_path(io.partition, signal), pa.Table.from_pylist(absent, ABSENT), ABSENT)
    num_absent = max(len(absent) for absent in computed.absent.values())
    return {
        "num_examples": len(examples),
        "num_scored": len(examples) - num_absent,
        "num_absent": num_absent,
        "num_split_batches": computed.num_splits,
        **_costs(section, folders, examples, seconds),
    }


def _costs(
    section: ExtractConfig, folders: Mapping[int, Path], examples: Sequence[Example], seconds: float
) -> dict[str, Json]:
    device, folder = device_name(section.hardware.device), next(iter(folders.values()))
    return extraction_costs(folder, examples, section.hardware, device, len(folders), seconds)


def num_loaders(asked: int | None, device: str) -> int:
    """Processes that load ahead: as asked, else enough for a GPU not to wait."""
    if asked is not None:
        return asked
    return 0 if device == "cpu" else min(MOST_LOADERS, os.cpu_count() or 1)


def _checkpoint(proxy: Artifact, index: int) -> Path:
    """Raises BadDataError: the checkpoint was never finished, or lost a file."""
    folder = proxy.local_folder(f"checkpoint-{index:04d}")
    require_sealed(folder, "Train the proxy again: xmas-job stage train_proxy.")
    return folder


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
