"""A pool of any size in a store, as ingest, proxy and extraction would have left it, and the stages behind it timed.

Every stage runs through the real runner in a process of its own, as in production.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from xmas_job.config import RunConfig
from xmas_job.environment import Environment
from xmas_job.extraction.layout import absent_path, signal_path
from xmas_job.logs import configure_logs
from xmas_job.runner import Run, Runner
from xmas_job.stage_io import Source
from xmas_job.storage.local import LocalStore
from xmas_job.storage.output import Output
from xmas_job.storage.record import Record, content_digest
from xmas_job.storage.schemas import ABSENT, EXAMPLES, QUARANTINE, TURN, signal_schema

DATASET = "synthetic@v1"
STAGES = ("pool", "cluster", "select:subset", "publish:subset")
NUM_CHECKPOINTS, TOP_K = 7, 5
TURNS_AN_EXAMPLE = 6
TEXT_ONLY_EVERY = 10
NUM_SOURCES = 40
ROWS_AT_ONCE = 100_000
_HEX = 32


@dataclass(frozen=True)
class Cost:
    """What one stage took, its imports included."""

    stage: str
    wall_seconds: float
    cpu_seconds: float
    peak_rss_gb: float


def run_line(folder: Path, num_examples: int, num_clusters: int, *, also: tuple[str, ...] = ()) -> list[Cost]:
    """Write the world and run pool, cluster, select and publish on it.

    Args:
        folder: an empty folder on a real disk.
        num_examples: N; one in ten is text-only.
        num_clusters: K.
        also: further node ids, run and timed afterwards.
    """
    run = Run("benchmark", _config(num_clusters), {
        f"landing:{DATASET}": Source(f"landing/{DATASET.replace('@', '/')}", "1" * 64),
        "model:proxy": Source("models/none", "2" * 64),
    })  # fmt: skip
    in_own_process = multiprocessing.get_context("spawn").Pool
    with in_own_process(1) as pool:
        pool.apply(_write_examples, (folder, run, num_examples))
    costs = []
    for stage in (*STAGES, *also):
        started = time.perf_counter()
        with in_own_process(1) as pool:
            cpu_seconds, peak_rss_gb = pool.apply(_run_stage, (folder, run, stage))
        costs.append(Cost(stage, time.perf_counter() - started, cpu_seconds, peak_rss_gb))
        if stage == "pool":
            with in_own_process(1) as pool:
                pool.apply(_write_signals, (folder, run, num_examples))
    return costs


def _config(num_clusters: int) -> RunConfig:
    data = {"datasets": [DATASET], "proxy": {"model": "models/none"}, "cluster": {"num_clusters": num_clusters}}
    return RunConfig.model_validate(data)


def _runner(folder: Path, run: Run) -> Runner:
    environment = Environment(store_root=str(folder / "store"), scratch=folder / "scratch", workers=2)
    return Runner(LocalStore(folder / "store"), environment, run)


def _run_stage(folder: Path, run: Run, stage: str) -> tuple[float, float]:
    configure_logs("json")  # to standard error
    result = _runner(folder, run).run_stage(stage)
    assert result.status == "built"
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime, _peak_rss_gb()


def _peak_rss_gb() -> float:
    """Of this process. Not ru_maxrss, which a started process takes over from the one that started it."""
    status = Path("/proc/self/status").read_text()
    (peak,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(peak) / 2**20


# --- what is there before -----------------------------------------------------------------------------------------


class _Written:
    """An artifact at the address where the runner looks for it."""

    def __init__(self, folder: Path, run: Run, node_id: str) -> None:
        self.runner = _runner(folder, run)
        self.node = run.nodes[node_id]
        self.address = self.runner.address(self.node)
        scratch = folder / "scratch" / "world"
        scratch.mkdir(parents=True, exist_ok=True)
        self.output = Output(self.runner.store, self.address, "attempts/1", scratch)

    def commit(self, **metrics: Any) -> None:
        files = tuple(file for _, file in sorted(self.output.files.items()))
        section = self.node.section.identity()
        spec, name = self.node.spec, self.address.rpartition("/")[2]
        record = Record(spec.name, spec.version, name, section, {}, files, content_digest(files), metrics)
        assert self.runner.store.create(f"{self.address}/record.json", record.to_bytes())


def _write_examples(folder: Path, run: Run, num_examples: int) -> None:
    uids = _uids(num_examples)
    rng = np.random.default_rng(1)
    texts = _texts(rng)
    parts = [
        _examples(uids[start : start + ROWS_AT_ONCE], start, texts, rng)
        for start in range(0, num_examples, ROWS_AT_ONCE)
    ]
    written = _Written(folder, run, f"ingest:{DATASET}")
    written.output.table("examples.parquet", pa.concat_tables(parts), EXAMPLES)
    written.output.table("quarantine.parquet", QUARANTINE.empty_table(), QUARANTINE)
    written.commit(num_rows=num_examples, num_examples=num_examples, num_quarantined=0)


def _uids(num_examples: int) -> NDArray[np.bytes_]:
    digits = np.random.default_rng(0).bytes(num_examples * _HEX // 2).hex().encode()
    return np.sort(np.frombuffer(digits, f"S{_HEX}"))


def _strings(fixed: NDArray[np.bytes_]) -> pa.Array:
    width = fixed.dtype.itemsize
    offsets = np.arange(0, (fixed.size + 1) * width, width, dtype=np.int32)
    return pa.StringArray.from_buffers(fixed.size, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(fixed)))


def _texts(rng: np.random.Generator) -> pa.Array:
    """Turns of about 155 characters of words: with six of them a row has the length of a LLaVA row."""
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    words = ["".join(rng.choice(letters, size)) for size in rng.integers(2, 9, 3000)]
    return pa.array([" ".join(rng.choice(words, 26)) for _ in range(20_000)])


def _examples(uids: NDArray[np.bytes_], start: int, texts: pa.Array, rng: np.random.Generator) -> pa.Table:
    num_rows = uids.size
    names = _strings(uids)
    is_text = (np.arange(start, start + num_rows) % TEXT_ONLY_EVERY) == 0
    num_turns = num_rows * TURNS_AN_EXAMPLE
    drawn = texts.take(pa.array(rng.integers(0, len(texts), num_turns)))
    shown = (np.arange(num_turns) % TURNS_AN_EXAMPLE == 0) & ~is_text.repeat(TURNS_AN_EXAMPLE)
    sources = pa.array([f"task-{number:02d}" for number in range(NUM_SOURCES)])
    turns = pa.StructArray.from_arrays(
        [
            pa.array(["user", "assistant"]).take(pa.array(np.arange(num_turns) % 2)),
            # A prefix of its own, so that no text repeats.
            pc.binary_join_element_wise(_strings(uids.repeat(TURNS_AN_EXAMPLE)), drawn, " "),
            pa.array(shown.astype(np.int32)),
        ],
        fields=list(TURN),
    )
    offsets = pa.array(np.arange(0, num_turns + 1, TURNS_AN_EXAMPLE, dtype=np.int32))
    image_offsets = pa.array(np.r_[0, np.cumsum(~is_text)].astype(np.int32))
    with_image = names.filter(pa.array(~is_text))

    def of_images(values: Any) -> pa.Array:
        return pa.ListArray.from_arrays(image_offsets, values)

    def repeated(value: str, number: int) -> pa.Array:
        return pa.array([value]).take(pa.array(np.zeros(number, np.int32)))

    uris = pc.binary_join_element_wise(repeated("landing/synthetic/v1/coco", len(with_image)), with_image, "/")
    sides = pa.array(np.full(num_rows, 336, np.int32), mask=is_text)
    columns = {
        "uid": names,
        "source": sources.take(pa.array(rng.integers(0, NUM_SOURCES, num_rows))),
        "orig_id": names,
        "source_uri": repeated("landing/synthetic/v1/data.json", num_rows),
        "source_row": pa.array(np.arange(start, start + num_rows)),
        "image_uris": of_images(uris),
        "image_sha256": of_images(pc.binary_join_element_wise(with_image, with_image, "")),
        "image_modes": of_images(repeated("RGB", len(with_image))),
        "image_formats": of_images(repeated("JPEG", len(with_image))),
        "width": sides,
        "height": sides,
        "num_turns": pa.array(np.full(num_rows, TURNS_AN_EXAMPLE, np.int32)),
        "conversation": pa.ListArray.from_arrays(offsets, turns),
        "text_sha256": pc.binary_join_element_wise(names, names, ""),
        "num_words": pa.array(np.full(num_rows, 26 * TURNS_AN_EXAMPLE, np.int32)),
        "modality": pa.array(["image", "text"]).take(pa.array(is_text.astype(np.int32))),
    }
    return pa.table([columns[field.name].cast(field.type) for field in EXAMPLES], schema=EXAMPLES)


def _write_signals(folder: Path, run: Run, num_examples: int) -> None:
    """The proxy's artifact without models, and alignment values in partitions, each in an order of its own."""
    proxy = _Written(folder, run, "train_proxy")
    positions = [{"checkpoint": index, "fraction": index / NUM_CHECKPOINTS} for index in range(NUM_CHECKPOINTS + 1)]
    proxy.output.json("positions.json", positions)
    proxy.commit()
    written = _Written(folder, run, f"extract:{DATASET}")
    rng = np.random.default_rng(2)
    uids = rng.permutation(np.delete(_uids(num_examples), np.s_[::TEXT_ONLY_EVERY]))
    size = int(written.node.section.identity()["partition_size"])
    archetypes = rng.normal(8, 2, (3000, 1)) + rng.normal(0, 1, (3000, NUM_CHECKPOINTS)).cumsum(axis=1)
    for partition, start in enumerate(range(0, uids.size, size)):
        part = uids[start : start + size]
        scores = archetypes[rng.integers(0, len(archetypes), part.size)] + rng.normal(
            0, 0.3, (part.size, NUM_CHECKPOINTS)
        )
        for checkpoint in range(NUM_CHECKPOINTS):
            values = (scores[:, checkpoint, None] * np.array([0.5, 0.2, 0.15, 0.1, 0.05])).astype(np.float32)
            table = pa.table(
                {
                    "uid": _strings(part),
                    "value": pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), TOP_K),
                    "num_text_tokens": pa.array(np.full(part.size, 240, np.int32)),
                    "num_image_tokens": pa.array(np.full(part.size, 576, np.int32)),
                }
            )
            written.output.table(signal_path(checkpoint + 1, partition), table, signal_schema(TOP_K))
        written.output.table(absent_path(partition), ABSENT.empty_table(), ABSENT)
    written.commit(num_examples=uids.size)
