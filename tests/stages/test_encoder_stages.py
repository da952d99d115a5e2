"""encode, train_selector and apply_selector, each on a tiny CLIP and two dozen examples."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.stages.workbench import Workbench, llava_row, picture, rows_of
from tests.tiny_clip import DIMENSION, tiny_clip
from xmas_job.config import IngestSection, PoolConfig
from xmas_job.errors import UsageError
from xmas_job.extraction.layout import absent_path, signal_path
from xmas_job.fingerprint import digest_of_folder
from xmas_job.sections import ApplySelectorSection, EncoderConfig, SelectorSection
from xmas_job.stage_io import Source
from xmas_job.stages import apply_selector, encode, ingest, pool, train_selector
from xmas_job.storage.record import Artifact

SHADES = {f"images/{shade}.png": picture((shade, 0, 255 - shade), (32, 32)) for shade in range(0, 240, 12)}
ROWS = [
    *(llava_row(row, path, f"How many {row}?", "red") for row, path in enumerate(SHADES)),
    {**llava_row("mute", next(iter(SHADES)), "", "a question of nobody")},
    llava_row("t0", None, "Which?", "red"),
    llava_row("t1", None, "Which one?", "red"),
]
ENCODE = EncoderConfig(model="m", batch_size=4, partition_size=21)
TRAIN = SelectorSection(num_clusters=3, is_most=False, num_epochs=4, core_share=0.5, learning_rate=1e-2)


@dataclass
class World:
    bench: Workbench
    ingested: Artifact
    pool: Artifact
    encoder: Source

    def encoded(self, encoder: Source) -> Artifact:
        """Both partitions' files as one artifact, as their seal makes it."""
        parts = [
            self.bench.run(encode.run, ENCODE, partition=number, ingest=self.ingested, encoder=encoder)
            for number in range(2)
        ]
        return self.bench.sealed(parts)


def save_clip(folder: Path, seed: int) -> Source:
    model, processor = tiny_clip(seed)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Source(str(folder), digest_of_folder(folder))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    bench = Workbench(folder)
    landing = bench.land("pets@v1", {"data.json": ROWS}, SHADES)
    ingested = bench.run(ingest.run, IngestSection(image_root=landing.uri), key="pets@v1", landing=landing)
    pooled = bench.run(pool.run, PoolConfig(), ingest=ingested)
    return World(bench, ingested, pooled, save_clip(folder / "clip", 0))


@pytest.fixture(scope="module")
def encoded(world: World) -> Artifact:
    return world.encoded(world.encoder)


@pytest.fixture(scope="module")
def selector(world: World, encoded: Artifact) -> Artifact:
    return world.bench.run(train_selector.run, TRAIN, pool=world.pool, encode=encoded)


def test_features_are_unit_vectors_by_partition_and_others_absent_with_a_reason(encoded: Artifact) -> None:
    first, last = (rows_of(encoded, signal_path(None, number, "clip")) for number in range(2))
    assert (len(first), len(last)) == (20, 0)
    assert [row["uid"] for row in first] == sorted(row["uid"] for row in first)
    features = np.array([row["value"] for row in first])
    assert features.shape == (20, 2 * DIMENSION)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    halves = np.linalg.norm(features.reshape(20, 2, DIMENSION), axis=2)
    np.testing.assert_allclose(halves, np.sqrt(0.5), rtol=1e-5)
    scores = rows_of(encoded, signal_path(None, 0, "clip_score"))
    assert [row["uid"] for row in scores] == [row["uid"] for row in first]
    assert all(-1 <= row["value"][0] <= 1 for row in scores)
    for signal in ("clip", "clip_score"):
        absent = [row["reason"] for number in range(2) for row in rows_of(encoded, absent_path(number, signal))]
        assert sorted(absent) == ["no_human_text", "text_only", "text_only"]


def test_selector_says_what_it_was_trained_on(world: World, selector: Artifact) -> None:
    card = json.loads(selector.read("selector/card.json"))
    assert card["encoder"] == world.encoder.digest
    assert card["num_source_examples"] == 20
    assert card["settings"]["num_clusters"] == selector.record.metrics["num_clusters"] == 3
    assert selector.paths == ["selector/card.json", "selector/selector.safetensors"]


def test_default_number_of_classes_is_lowered_for_a_small_pool(world: World, encoded: Artifact) -> None:
    section = TRAIN.model_copy(update={"num_clusters": 128, "is_most": True})
    made = world.bench.run(train_selector.run, section, pool=world.pool, encode=encoded)
    assert made.record.metrics["num_clusters"] == 1  # twenty examples are fewer than 39


def test_released_selector_gives_the_same_bytes_as_the_runs_own(
    world: World, encoded: Artifact, selector: Artifact
) -> None:
    train_selector.release(selector, None, "")
    train_selector.release(selector, None, "")
    (name,) = world.bench.store.folders("selectors")
    folder = world.bench.root / "selectors" / name
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "selector.safetensors"]
    given = Source(f"selectors/{name}", digest_of_folder(folder))
    own, other = (
        world.bench.run(apply_selector.run, ApplySelectorSection(), pool=world.pool, encode=encoded, selector=source)
        for source in (selector, given)
    )
    assert own.record.digest == other.record.digest
    assert own.record.metrics["num_examples"] == 20


def test_clusters_are_the_nearest_of_the_selectors_centroids(
    world: World, encoded: Artifact, selector: Artifact
) -> None:
    made = world.bench.run(
        apply_selector.run, ApplySelectorSection(), pool=world.pool, encode=encoded, selector=selector
    )
    features = np.array([row["value"] for row in rows_of(encoded, signal_path(None, 0, "clip"))], dtype=np.float64)
    centroids = np.array([row["vector"] for row in rows_of(made, "centroids.parquet")], dtype=np.float64)
    distances = np.linalg.norm(features[:, None] - centroids[None], axis=2)
    assigned = rows_of(made, "assignments.parquet")
    assert [row["cluster"] for row in assigned] == distances.argmin(axis=1).tolist()
    np.testing.assert_allclose([row["distance"] for row in assigned], distances.min(axis=1), atol=1e-5)
    confidence = [row["value"][0] for row in rows_of(made, signal_path(None, 0, "ofa_confidence"))]
    assert all(1 / 3 <= value <= 1 for value in confidence)
    assert len(set(confidence)) > 1


def test_selector_of_another_encoder_is_refused_when_it_is_applied(
    world: World, selector: Artifact, tmp_path: Path
) -> None:
    other = save_clip(tmp_path / "other", 1)
    inputs = {"pool": world.pool, "encode": world.encoded(other), "selector": selector}
    with pytest.raises(UsageError, match=f"trained on features of the encoder {world.encoder.digest[:12]}") as caught:
        world.bench.run(apply_selector.run, ApplySelectorSection(), **inputs)
    assert other.digest[:12] in caught.value.message
