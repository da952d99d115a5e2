"""Parts of signals, written by hand, joined into arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.stages.workbench import Workbench
from xmas_job.catalog.methods import Checkpoints, SignalNeed
from xmas_job.errors import BadDataError
from xmas_job.extraction.layout import absent_path, signal_path
from xmas_job.stages.stored_signals import join_signal, read_absent, without
from xmas_job.storage.output import Output
from xmas_job.storage.record import Artifact
from xmas_job.storage.schemas import ABSENT, feature_schema

Parts = dict[int | None, list[dict[str, list[float]]]]
"""Checkpoint -> one table a partition: uid -> values."""


def stored(bench: Workbench, signal: str, parts: Parts, absent: dict[str, str] | None = None) -> Artifact:
    def fill(output: Output) -> None:
        for checkpoint, partitions in parts.items():
            for number, values in enumerate(partitions):
                schema = feature_schema(len(next(iter(values.values()), [0.0])))
                rows = [{"uid": uid, "value": value} for uid, value in values.items()]
                output.table(signal_path(checkpoint, number, signal), pa.Table.from_pylist(rows, schema), schema)
        rows = [{"uid": uid, "reason": reason} for uid, reason in (absent or {}).items()]
        output.table(absent_path(0, signal), pa.Table.from_pylist(rows, ABSENT), ABSENT)

    return bench.write("extract", fill)


LOSSES: Parts = {t: [{"c": [t + 0.5], "a": [t + 0.25]}, {"b": [t + 0.75]}] for t in range(4)}
"""Of checkpoints 0 to 3; partitions are not in uid order."""


@pytest.mark.parametrize(
    ("checkpoints", "expected"),
    [
        ("last", [3.25, 3.75]),
        ("all", [[1.25, 2.25, 3.25], [1.75, 2.75, 3.75]]),
        ("first and last", [[0.25, 3.25], [0.75, 3.75]]),
        ("first and all", [[0.25, 1.25, 2.25, 3.25], [0.75, 1.75, 2.75, 3.75]]),
    ],
)
def test_numbers_at_the_checkpoints_asked_for(
    bench: Workbench, tmp_path: Path, checkpoints: Checkpoints, expected: list[float]
) -> None:
    joined = join_signal(
        [stored(bench, "loss", LOSSES)], SignalNeed("loss", checkpoints), pa.array(["a", "b"]), tmp_path
    )
    assert joined.tolist() == expected
    assert not isinstance(joined, np.memmap)


def test_vectors_are_mapped_from_a_file_and_not_held(bench: Workbench, tmp_path: Path) -> None:
    parts: Parts = {None: [{"c": [5.0, 6.0], "a": [1.0, 2.0]}, {"x": [9.0, 9.0], "b": [3.0, 4.0]}]}
    features = join_signal(
        [stored(bench, "clip", parts)], SignalNeed("clip", "none"), pa.array(["a", "b", "c"]), tmp_path
    )
    assert features.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert isinstance(features, np.memmap)
    assert np.fromfile(tmp_path / "clip", dtype=np.float32).tolist() == [1, 2, 3, 4, 5, 6]


def test_of_an_example_that_landed_twice_the_first_version_counts(bench: Workbench, tmp_path: Path) -> None:
    versions = [stored(bench, "el2n", {2: [{"a": [value], "b": [value]}]}) for value in (0.5, 0.25)]
    wanted, need = pa.array(["a", "b"]), SignalNeed("el2n", "last")
    assert join_signal(versions, need, wanted, tmp_path).tolist() == [0.5, 0.5]
    assert join_signal(versions[::-1], need, wanted, tmp_path).tolist() == [0.25, 0.25]


def test_versions_of_other_widths_are_refused(bench: Workbench, tmp_path: Path) -> None:
    parts: Parts = {None: [{"a": [1.0, 2.0]}, {"b": [1.0]}]}
    with pytest.raises(BadDataError, match="signal 'clip' has 1 values in one part and 2 in another"):
        join_signal([stored(bench, "clip", parts)], SignalNeed("clip", "none"), pa.array(["a", "b"]), tmp_path)


def test_example_without_value_and_reason_is_noticed(bench: Workbench, tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match="of 4 examples, 1 have neither a value of 'loss' nor a reason"):
        join_signal([stored(bench, "loss", LOSSES)], SignalNeed("loss", "all"), pa.array(list("abcd")), tmp_path)


def test_signal_that_was_not_extracted_is_named(bench: Workbench, tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match="there are no values of 'aum'"):
        join_signal([stored(bench, "loss", LOSSES)], SignalNeed("aum", "last"), pa.array(["a"]), tmp_path)


def test_absent_examples_are_left_out_once_with_a_reason(bench: Workbench) -> None:
    both = [stored(bench, "loss", {1: [{"a": [1.0]}]}, {"b": "no_answer_after_truncation", "x": "y"})] * 2
    wanted = pa.array(["a", "b"])
    absent = read_absent(both, ["loss"], wanted)
    assert absent.to_pylist() == [{"uid": "b", "reason": "no_answer_after_truncation"}]
    assert without(wanted, absent).to_pylist() == ["a"]
    with pytest.raises(BadDataError, match=r"none of the 1 .* has the signals of the method: no_answer_after"):
        without(pa.array(["b"]), absent)
