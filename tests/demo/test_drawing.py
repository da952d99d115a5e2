from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from xmas_job.demo.drawing import CANVAS, Scene, draw_scene, render

SCENE = Scene("circle", "red", "large", "solid", ("top left", "bottom right"), "blue")
OTHER = {
    "kind": "square",
    "colour": "green",
    "size": "small",
    "pattern": "striped",
    "places": ("top left",),
    "frame": "red",
}


@pytest.mark.parametrize("attribute", OTHER)
def test_every_attribute_shows_in_the_pixels(attribute: str) -> None:
    changed = replace(SCENE, **{attribute: OTHER[attribute]})
    pixels = [np.asarray(render(scene, np.random.default_rng(0))) for scene in (SCENE, changed)]
    assert (pixels[0] != pixels[1]).any(axis=-1).sum() > 30


def test_shapes_stand_where_the_scene_says() -> None:
    pixels = np.asarray(render(SCENE, np.random.default_rng(0)))
    assert pixels.shape == (CANVAS, CANVAS, 3)
    red, blue = (214, 40, 40), (40, 80, 210)
    assert tuple(pixels[12, 12]) == red
    assert tuple(pixels[36, 36]) == red
    assert tuple(pixels[12, 36]) not in {red, blue}
    assert tuple(pixels[0, 20]) == tuple(pixels[47, 20]) == tuple(pixels[20, 0]) == tuple(pixels[20, 47]) == blue


def test_split_is_a_property_of_the_content() -> None:
    rng = np.random.default_rng(0)
    for split in ("heldout", "pool", "pretraining"):
        for _ in range(20):
            scene = draw_scene(rng, split)
            assert replace(scene).split == scene.split == split


def test_splits_share_the_scenes_one_three_four() -> None:
    scenes = {
        Scene(kind, colour, size, pattern, ("top left",), frame)
        for kind in ("circle", "square", "triangle", "star", "cross")
        for colour in ("red", "green", "blue", "yellow", "purple", "orange")
        for size in ("small", "large")
        for pattern in ("solid", "striped", "dotted")
        for frame in ("red", "green", "blue", "yellow", "purple", "orange")
    }
    shares = {split: num / len(scenes) for split, num in Counter(scene.split for scene in scenes).items()}
    assert shares == pytest.approx({"heldout": 1 / 8, "pool": 3 / 8, "pretraining": 1 / 2}, abs=0.03)
