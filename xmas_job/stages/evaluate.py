"""evaluate: one tuned target's greedy answers to a held-out dataset, scored by exact match."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xmas_job.config import EvaluateConfig
from xmas_job.core.performance import MeanScore, mean_and_standard_error, mean_by_source
from xmas_job.data.examples import Example
from xmas_job.data.stored import image_loader, read_examples, read_rows
from xmas_job.evaluation.generate import generate_answers, load_target
from xmas_job.evaluation.metrics import exact_match
from xmas_job.models.hardware import apply_hardware
from xmas_job.stage_io import Metrics, StageIO
from xmas_job.storage.schemas import PREDICTIONS, SCORES

METRIC = "exact_match"


def run(section: EvaluateConfig, io: StageIO) -> Metrics:
    """Write `predictions.parquet` (one row an example) and `scores.parquet` (overall, its source null; by source)."""
    dtype = apply_hardware(section.hardware)
    examples, digests = read_examples(io.artifacts["ingest"])
    sources = read_rows(io.artifacts["ingest"], ["source"])["source"].to_pylist()
    adapter = io.artifact("adapter").local_folder("adapter")
    lvlm = load_target(io.model_folder("model"), adapter, device=section.hardware.device, dtype=dtype)
    predictions = generate_answers(
        lvlm,
        examples,
        image_loader(io.store, digests),
        max_new_tokens=section.max_new_tokens,
        batch_size=section.batch_size,
        on_progress=io.progress,
    )
    answers = [_answer(example) for example in examples]
    correct = exact_match(predictions, answers)
    table = {
        "uid": [example.uid for example in examples],
        "source": sources,
        "answer": answers,
        "prediction": predictions,
        "correct": correct.astype(bool),
    }
    io.output.table("predictions.parquet", pa.table(table), PREDICTIONS)
    overall = mean_and_standard_error(correct)
    io.output.table("scores.parquet", _scores(section.dataset.partition("@")[0], overall, correct, sources), SCORES)
    return {
        "num_examples": len(examples),
        "exact_match": overall.mean,
        "standard_error": overall.standard_error,
    }


def _answer(example: Example) -> str:
    return example.turns[-1].text


def _scores(benchmark: str, overall: MeanScore, correct: NDArray[np.float64], sources: list[str]) -> pa.Table:
    rows: list[tuple[str | None, MeanScore]] = [(None, overall), *mean_by_source(correct, sources).items()]
    return pa.Table.from_pylist(
        [
            {
                "benchmark": benchmark,
                "metric": METRIC,
                "source": source,
                "value": score.mean,
                "standard_error": score.standard_error,
                "num_examples": score.num_examples,
            }
            for source, score in rows
        ],
        SCORES,
    )
