"""Every table there is: its columns, its version, its key. Checked on write and on read.

Owns the schemas. `tables` writes and reads by them.
"""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = 1

TURN = pa.struct([("role", pa.string()), ("text", pa.string()), ("num_images", pa.int32())])

EXAMPLES = pa.schema(
    [
        ("uid", pa.string()),
        ("source", pa.string()),
        ("orig_id", pa.string()),
        ("source_uri", pa.string()),
        ("source_row", pa.int64()),
        ("image_uris", pa.list_(pa.string())),
        ("image_sha256", pa.list_(pa.string())),
        ("image_modes", pa.list_(pa.string())),
        ("image_formats", pa.list_(pa.string())),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("num_turns", pa.int32()),
        ("conversation", pa.list_(TURN)),
        ("text_sha256", pa.string()),
        ("num_words", pa.int32()),
        ("modality", pa.string()),
    ]
)

QUARANTINE = pa.schema(
    [("source_uri", pa.string()), ("source_row", pa.int64()), ("reason", pa.string()), ("detail", pa.string())]
)

POOL = pa.schema([("uid", pa.string()), ("source", pa.string()), ("modality", pa.string()), ("dataset", pa.string())])

DROPPED = pa.schema(
    [
        ("uid", pa.string()),
        ("dataset", pa.string()),
        ("source_uri", pa.string()),
        ("source_row", pa.int64()),
        ("reason", pa.string()),
        ("kept_in", pa.string()),
    ]
)

ABSENT = pa.schema([("uid", pa.string()), ("reason", pa.string())])

ASSIGNMENTS = pa.schema([("uid", pa.string()), ("cluster", pa.int32()), ("distance", pa.float32())])

RANKING = pa.schema(
    [
        ("uid", pa.string()),
        ("rank", pa.int64()),
        ("stratum", pa.string()),
        ("cluster", pa.int32()),
        ("instability", pa.float64()),
        ("rank_in_cluster", pa.int64()),
    ]
)

SUBSET = pa.schema(
    [
        ("uid", pa.string()),
        ("rank", pa.int64()),
        ("source", pa.string()),
        ("orig_id", pa.string()),
        ("source_uri", pa.string()),
        ("source_row", pa.int64()),
        ("cluster", pa.int32()),
        ("weight", pa.float64()),
    ]
)

PREDICTIONS = pa.schema(
    [
        ("uid", pa.string()),
        ("source", pa.string()),
        ("answer", pa.string()),
        ("prediction", pa.string()),
        ("correct", pa.bool_()),
    ]
)

SCORES = pa.schema(
    [
        ("benchmark", pa.string()),
        ("metric", pa.string()),
        ("source", pa.string()),
        ("value", pa.float64()),
        ("standard_error", pa.float64()),
        ("num_examples", pa.int64()),
    ]
)


def signal_schema(dimension: int) -> pa.Schema:
    """A signal's part at one checkpoint: `dimension` values an example, and what they were computed from."""
    return pa.schema(
        [
            ("uid", pa.string()),
            ("value", pa.list_(pa.float32(), dimension)),
            ("num_text_tokens", pa.int32()),
            ("num_image_tokens", pa.int32()),
        ]
    )


def feature_schema(dimension: int) -> pa.Schema:
    """A signal's part without checkpoints: `dimension` values an example."""
    return pa.schema([("uid", pa.string()), ("value", pa.list_(pa.float32(), dimension))])


def trajectory_schema(num_checkpoints: int, num_values: int | None = None) -> pa.Schema:
    """Alignment scores over `num_checkpoints` checkpoints, one row an example; or `num_values` values at each."""
    step = pa.float32() if num_values is None else pa.list_(pa.float32(), num_values)
    return pa.schema([("uid", pa.string()), ("trajectory", pa.list_(step, num_checkpoints))])


def centroid_schema(num_checkpoints: int) -> pa.Schema:
    """One row a cluster."""
    return pa.schema(
        [("cluster", pa.int32()), ("size", pa.int64()), ("vector", pa.list_(pa.float32(), num_checkpoints))]
    )
