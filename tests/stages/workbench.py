"""One stage at a time on a store in a folder: artifacts built by the real Output and Record, or written by hand."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from xmas_job.config import IngestSection, RunConfig
from xmas_job.environment import Environment
from xmas_job.pipeline import node_id
from xmas_job.runner import Run
from xmas_job.sections import Section
from xmas_job.stage_io import Metrics, Source, StageIO
from xmas_job.storage.landing import landing_digest
from xmas_job.storage.local import LocalStore
from xmas_job.storage.output import Output
from xmas_job.storage.record import Artifact, Record, content_digest, parse_record
from xmas_job.storage.schemas import EXAMPLES, QUARANTINE
from xmas_job.storage.tables import read_table

StageFunction = Callable[[Any, StageIO], Metrics]
Input = Artifact | Source | Sequence[Artifact]


class Workbench:
    """A store, and what a runner does around one call of a stage function, without its leases."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "store"
        self.store = LocalStore(self.root)
        self.environment = Environment(store_root=str(self.root), scratch=folder / "scratch", workers=2)
        self.progress: list[tuple[int, int]] = []
        self._folder = folder
        self._num_outputs = 0

    def run(
        self, function: StageFunction, section: Section, *, key: str = "", partition: int | None = None, **inputs: Input
    ) -> Artifact:
        """Call a stage function and commit what it wrote."""
        stage = function.__module__.rpartition(".")[2]
        output = self._output(stage)
        artifacts, sources = {}, {}
        for name, value in inputs.items():
            if isinstance(value, Source):
                sources[name] = (self._resolved(value, section),)
            else:
                artifacts[name] = (value,) if isinstance(value, Artifact) else tuple(value)
        stage_io = StageIO(
            store=self.store,
            output=output,
            environment=self.environment,
            progress=lambda done, total: self.progress.append((done, total)),
            partition=partition,
            artifacts=artifacts,
            sources=sources,
        )
        metrics = function(section, stage_io)
        inputs = {name: tuple(artifact.record.digest for artifact in some) for name, some in artifacts.items()}
        inputs |= {name: tuple(source.digest for source in some) for name, some in sources.items()}
        return self._commit(stage, key, output, metrics, section.identity(), inputs)

    def _resolved(self, source: Source, section: Section) -> Source:
        """The source as it is when the stage starts; a landed version is known by its listing."""
        if isinstance(section, IngestSection) and not source.digest:
            return replace(source, digest=landing_digest(self.store, source.uri, section.image_root))
        return source

    def sealed(self, parts: Sequence[Artifact]) -> Artifact:
        """One artifact of partitions, as their seal makes it."""
        made = self.write(
            "sealed", lambda output: [output.data(path, part.read(path)) for part in parts for path in part.paths]
        )
        return replace(made, record=replace(made.record, inputs=parts[0].record.inputs))

    def write(
        self,
        stage: str,
        fill: Callable[[Output], object],
        *,
        key: str = "",
        metrics: Metrics | None = None,
        section: Mapping[str, Any] | None = None,
    ) -> Artifact:
        """An artifact of a stage that is not run: `fill` writes its files."""
        output = self._output(stage)
        fill(output)
        return self._commit(stage, key, output, metrics or {}, section or {})

    def _output(self, stage: str) -> Output:
        self._num_outputs += 1
        scratch = self._folder / "scratch" / str(self._num_outputs)
        scratch.mkdir(parents=True)
        return Output(self.store, f"artifacts/{stage}/{self._num_outputs:032x}", "attempts/1", scratch)

    def _commit(
        self,
        stage: str,
        key: str,
        output: Output,
        metrics: Metrics,
        section: Mapping[str, Any],
        inputs: Mapping[str, tuple[str, ...]] | None = None,
    ) -> Artifact:
        files = tuple(file for _, file in sorted(output.files.items()))
        address = output.address
        record = Record(
            stage, 1, address.rpartition("/")[2], section, inputs or {}, files, content_digest(files), metrics
        )
        assert self.store.create(f"{address}/record.json", record.to_bytes())
        stored = parse_record(self.store.read(f"{address}/record.json"))
        return Artifact(self.store, address, stored, node_id(stage, key))

    # --- landed data -------------------------------------------------------------------------------------------

    def land(self, dataset: str, files: Mapping[str, object], images: Mapping[str, bytes] | None = None) -> Source:
        """Land "name@version": data files (rows as a JSON list, or bytes as they are) and images."""
        name, _, version = dataset.partition("@")
        prefix = f"landing/{name}/{version}"
        for path, content in files.items():
            self.store.put(f"{prefix}/{path}", content if isinstance(content, bytes) else json.dumps(content).encode())
        for path, data in (images or {}).items():
            self.store.put(f"{prefix}/{path}", data)
        return Source(prefix, "")

    def examples(self, dataset: str, rows: Iterable[dict[str, Any]], num_quarantined: int = 0) -> Artifact:
        """An ingested version with rows written by hand, see `example_row`."""
        table = pa.Table.from_pylist(list(rows), EXAMPLES)
        bad = [{"source_uri": "f", "source_row": row, "reason": "missing_image"} for row in range(num_quarantined)]

        def fill(output: Output) -> None:
            output.table("examples.parquet", table, EXAMPLES)
            output.table("quarantine.parquet", pa.Table.from_pylist(bad, QUARANTINE), QUARANTINE)

        num_rows = table.num_rows + num_quarantined
        metrics = {"num_rows": num_rows, "num_examples": table.num_rows, "num_quarantined": num_quarantined}
        return self.write("ingest", fill, key=dataset, metrics=metrics)


def example_row(uid: str, modality: str = "image", source: str = "coco", source_row: int = 0) -> dict[str, Any]:
    """One row of an `examples` table: a question and an answer, on an image of its own or none."""
    uris = [f"landing/d/v1/{uid}.png"] if modality == "image" else []
    return {
        "uid": uid,
        "source": source,
        "orig_id": f"id-{uid}",
        "source_uri": "landing/d/v1/data.json",
        "source_row": source_row,
        "image_uris": uris,
        "image_sha256": [f"sha-{uid}" for _ in uris],
        "image_modes": ["RGB" for _ in uris],
        "image_formats": ["PNG" for _ in uris],
        "width": 8 if uris else None,
        "height": 8 if uris else None,
        "num_turns": 2,
        "conversation": [("user", f"What is {uid}?", len(uris)), ("assistant", uid, 0)],
        "text_sha256": f"text-{uid}",
        "num_words": 4,
        "modality": modality,
    }


def llava_row(orig_id: Any, image: str | None, question: str = "What?", answer: str = "A cat.") -> dict[str, Any]:
    """One landed row with an image, or text-only."""
    seen = {} if image is None else {"image": image}
    value = question if image is None else f"<image>\n{question}"
    return {
        "id": orig_id,
        **seen,
        "conversations": [{"from": "human", "value": value}, {"from": "gpt", "value": answer}],
    }


def picture(colour: str | tuple[int, int, int], size: tuple[int, int] = (12, 8), kind: str = "PNG") -> bytes:
    """An image file of one colour."""
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, kind)
    return stream.getvalue()


def rows_of(artifact: Artifact, path: str, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """A table of an artifact, row by row."""
    rows: list[dict[str, Any]] = read_table(artifact, path, columns=columns).to_pylist()
    return rows


def make_run(run_id: str = "r1", **config: Any) -> Run:
    """A resolved run of one dataset with a proxy that nobody loads."""
    data = {"datasets": ("d@v1",), "proxy": {"model": "models/p"}, **config}
    return Run(run_id, RunConfig.model_validate(data), {"landing:d@v1": Source("landing/d/v1", "5" * 64)}, "2026-01-01")
