from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from xmas_job.demo.drawing import draw_scene, render
from xmas_job.demo.encoder import DIMENSION, write_encoder
from xmas_job.extraction.clip import DualEncoder


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    folder = tmp_path_factory.mktemp("models") / "clip"
    return folder, write_encoder(folder, seed=3, num_steps=12)


def test_folder_loads_offline_as_a_dual_encoder(written: tuple[Path, list[float]]) -> None:
    encoder = DualEncoder.load(written[0], device="cpu", dtype=torch.float32)
    rng = np.random.default_rng(0)
    pictures = [render(draw_scene(rng, "pool"), rng).resize((70, 61)) for _ in range(2)]
    assert encoder.width == DIMENSION
    assert encoder.images(pictures).shape == (2, DIMENSION)
    texts = encoder.texts(["What colour is it?", "What shape is it?", "word " * 500])
    assert texts.shape == (3, DIMENSION)
    assert float((texts[0] - texts[1]).norm()) > 1e-3, "no two texts differ by more than float32's noise"


def test_few_steps_lower_the_loss(written: tuple[Path, list[float]]) -> None:
    losses = written[1]
    assert len(losses) == 12
    assert sum(losses[-3:]) < sum(losses[:3])


def test_same_seed_writes_the_same_bytes(written: tuple[Path, list[float]], tmp_path: Path) -> None:
    write_encoder(tmp_path / "again", seed=3, num_steps=12)
    names = sorted(path.name for path in written[0].iterdir())
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == names
    assert all((tmp_path / "again" / name).read_bytes() == (written[0] / name).read_bytes() for name in names)
