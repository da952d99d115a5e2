"""A dozen landed examples and a tiny model, for the stages that load one."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

from PIL import Image

from tests.stages.workbench import Workbench, llava_row, picture
from xmas_job.config import (
    TrainingConfig,
)
from xmas_job.sections import AlignmentConfig, ExtractConfig
from xmas_job.stage_io import Source
from xmas_job.stages import extract
from xmas_job.storage.record import Artifact

SHADES = {f"images/{shade}.png": picture((shade, 0, 255 - shade), (32, 32)) for shade in range(0, 250, 40)}
ROWS = [
    *(llava_row(row, path, f"How many {row}?", "red") for row, path in enumerate([*SHADES, *list(SHADES)[:2]])),
    llava_row("t0", None, "Which?", "red"),
    llava_row("t1", None, "Which one?", "red"),
    # The image lies behind the cut at 48 tokens.
    {
        **llava_row("late", next(iter(SHADES)), "", "red"),
        "conversations": [
            {"from": "human", "value": "no " * 80},
            {"from": "gpt", "value": "a"},
            {"from": "human", "value": "<image>"},
            {"from": "gpt", "value": "red"},
        ],
    },
]
TRAINING = TrainingConfig(
    learning_rate=1e-2, global_batch=5, per_device_batch=5, max_length=48, max_unsupervised_fraction=1.0
)
EXTRACT = ExtractConfig(
    signals=("alignment",), alignment=AlignmentConfig(top_k=3), partition_size=5, token_budget=100, max_length=48
)


@dataclass
class World:
    bench: Workbench
    ingested: Artifact
    pool: Artifact
    model: Source

    def load_image(self, uri: str) -> Image.Image:
        return Image.open(io.BytesIO(self.bench.store.read(uri))).convert("RGB")


def extracted(world: World, proxy: Artifact, partition: int, **changes: Any) -> Artifact:
    section = EXTRACT.model_copy(update=changes)
    return world.bench.run(extract.run, section, partition=partition, ingest=world.ingested, proxy=proxy)
