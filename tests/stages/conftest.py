from __future__ import annotations

from pathlib import Path

import pytest

from tests.stages.model_world import ROWS, SHADES, TRAINING, World, extracted
from tests.stages.workbench import Workbench
from tests.tiny_models import sharpen, tiny_llava
from xmas_job.config import IngestSection, PoolConfig, ProxyConfig
from xmas_job.fingerprint import digest_of_folder
from xmas_job.stage_io import Source
from xmas_job.stages import ingest, pool, train_proxy
from xmas_job.storage.record import Artifact


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    """An empty store, and stage functions called on it."""
    return Workbench(tmp_path)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Twelve landed examples: seven images, two of them twice, two text-only, one too long; and a tiny model."""
    folder = tmp_path_factory.mktemp("world")
    bench = Workbench(folder)
    landing = bench.land("pets@v1", {"data.json": ROWS}, SHADES)
    ingested = bench.run(ingest.run, IngestSection(image_root=landing.uri), key="pets@v1", landing=landing)
    pooled = bench.run(pool.run, PoolConfig(), ingest=ingested)
    model = tiny_llava()
    sharpen(model.model)
    model.save(folder / "model")
    return World(bench, ingested, pooled, Source(str(folder / "model"), digest_of_folder(folder / "model")))


@pytest.fixture(scope="module")
def proxy(world: World) -> Artifact:
    section = ProxyConfig(model="m", num_checkpoints=2, training=TRAINING)
    return world.bench.run(train_proxy.run, section, pool=world.pool, ingest=world.ingested, model=world.model)


@pytest.fixture(scope="module")
def parts(world: World, proxy: Artifact) -> list[Artifact]:
    """Partitions of five, five and two examples; the last one has no image."""
    return [extracted(world, proxy, partition) for partition in range(3)]
