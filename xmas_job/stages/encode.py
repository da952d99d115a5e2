"""encode: features of a frozen dual encoder for one partition of a dataset version, once for all their readers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xmas_job.data.stored import image_loader, read_partition
from xmas_job.extraction.clip import DualEncoder, encode_examples
from xmas_job.extraction.layout import absent_path, signal_path
from xmas_job.models.hardware import apply_hardware
from xmas_job.sections import EncoderConfig
from xmas_job.stage_io import Metrics, StageIO
from xmas_job.storage.schemas import ABSENT, feature_schema
from xmas_job.storage.tables import lists_of


def run(section: EncoderConfig, io: StageIO) -> Metrics:
    """Write the partition's joint features, "clip", and their agreement, "clip_score"; and who has none, and why."""
    assert io.partition is not None
    dtype = apply_hardware(section.hardware)
    examples, digests = read_partition(io.artifacts["ingest"], io.partition, section.partition_size)
    encoder = DualEncoder.load(io.model_folder("encoder"), device=section.hardware.device, dtype=dtype)
    found = encode_examples(
        encoder, examples, image_loader(io.store, digests), batch_size=section.batch_size, on_progress=io.progress
    )
    order = np.argsort(np.array(found.uids, dtype=str), kind="stable")
    absent = pa.Table.from_pylist([{"uid": uid, "reason": reason} for uid, reason in sorted(found.absent)], ABSENT)
    for signal, values in {"clip": found.joint, "clip_score": found.agreement[:, None]}.items():
        table = _table([found.uids[row] for row in order], values[order])
        io.output.table(signal_path(None, io.partition, signal), table, feature_schema(values.shape[1]))
        io.output.table(absent_path(io.partition, signal), absent, ABSENT)
    num_absent = len(found.absent)
    return {"num_examples": len(examples), "num_encoded": len(examples) - num_absent, "num_absent": num_absent}


def _table(uids: list[str], values: NDArray[np.float32]) -> pa.Table:
    return pa.table({"uid": pa.array(uids, pa.string()), "value": lists_of(np.ascontiguousarray(values))})
