"""Coloured shapes on a small canvas: what a scene is, how it is drawn at random and how it becomes pixels.

Owns scenes and pixels. Refuses to own what is asked about them (questions) and how files are laid out (pool).
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

Split = Literal["heldout", "pool", "pretraining"]
Choice_T = TypeVar("Choice_T")

CANVAS = 48  # pixels a side
CELL = CANVAS // 2
COLOURS = {
    "red": (214, 40, 40),
    "green": (38, 140, 60),
    "blue": (40, 80, 210),
    "yellow": (240, 205, 40),
    "purple": (140, 50, 160),
    "orange": (245, 130, 30),
}
KINDS = ("circle", "square", "triangle", "star", "cross")
PATTERNS = ("solid", "striped", "dotted")
RADII = {"small": 6, "large": 9}  # pixels
PLACES = {"top left": (0, 0), "top right": (1, 0), "bottom left": (0, 1), "bottom right": (1, 1)}
BACKGROUNDS = ((245, 245, 245), (225, 232, 240), (240, 230, 215), (215, 215, 215))

# Scenes are dealt to the splits by their content, so no seed can put a held-out picture into the pool.
_HELDOUT, _POOL, _NUM_RESIDUES = 1, 4, 8  # of eight residues one is held out, three make the pool


@dataclass(frozen=True, slots=True)
class Scene:
    """One kind of shape, shown once to four times in different corners, inside a coloured frame."""

    kind: str
    colour: str
    size: str
    pattern: str
    places: tuple[str, ...]
    frame: str

    @property
    def split(self) -> Split:
        """The split this content belongs to, whatever its rendering."""
        residue = zlib.crc32(repr(self).encode()) % _NUM_RESIDUES
        return "heldout" if residue < _HELDOUT else "pool" if residue < _POOL else "pretraining"


def pick(rng: np.random.Generator, options: Sequence[Choice_T]) -> Choice_T:
    """One of the options, uniformly."""
    return options[int(rng.integers(len(options)))]


def draw_scene(rng: np.random.Generator, split: Split) -> Scene:
    """A random scene of the split, by rejection (one draw in two to eight is kept)."""
    while True:
        scene = _draw_any_scene(rng)
        if scene.split == split:
            return scene


def _draw_any_scene(rng: np.random.Generator) -> Scene:
    corners = sorted(rng.permutation(len(PLACES))[: 1 + int(rng.integers(len(PLACES)))])
    colour = pick(rng, tuple(COLOURS))
    return Scene(
        kind=pick(rng, KINDS),
        colour=colour,
        size=pick(rng, tuple(RADII)),
        pattern=pick(rng, PATTERNS),
        places=tuple(tuple(PLACES)[corner] for corner in corners),
        # Often the same colour, else "the same colour?" would nearly always be "no".
        frame=colour if rng.random() < 0.4 else pick(rng, tuple(COLOURS)),
    )


def render(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """The scene as an RGB picture of (48, 48); background and one pixel of jitter come from `rng`."""
    canvas = Image.new("RGB", (CANVAS, CANVAS), pick(rng, BACKGROUNDS))
    mask = Image.new("1", canvas.size)
    pen = ImageDraw.Draw(mask)
    for place in scene.places:
        column, row = PLACES[place]
        centre_x = column * CELL + CELL // 2 + int(rng.integers(-1, 2))
        centre_y = row * CELL + CELL // 2 + int(rng.integers(-1, 2))
        _draw_outline(pen, scene.kind, centre_x, centre_y, RADII[scene.size])
    canvas.paste(_paint(scene), mask=mask)
    edge = CANVAS - 1
    ImageDraw.Draw(canvas).rectangle((0, 0, edge, edge), outline=COLOURS[scene.frame], width=2)
    return canvas


def _draw_outline(pen: ImageDraw.ImageDraw, kind: str, x: int, y: int, radius: int) -> None:
    box = (x - radius, y - radius, x + radius, y + radius)
    if kind == "circle":
        pen.ellipse(box, fill=1)
    elif kind == "square":
        pen.rectangle((x - radius + 1, y - radius + 1, x + radius - 1, y + radius - 1), fill=1)
    elif kind == "triangle":
        pen.polygon([(x, y - radius), (x - radius, y + radius - 1), (x + radius, y + radius - 1)], fill=1)
    elif kind == "star":
        pen.polygon(_star_corners(x, y, radius), fill=1)
    else:
        arm = radius // 3
        pen.rectangle((x - arm, box[1], x + arm, box[3]), fill=1)
        pen.rectangle((box[0], y - arm, box[2], y + arm), fill=1)


def _star_corners(x: int, y: int, radius: int) -> list[tuple[float, float]]:
    corners = []
    for step in range(10):
        reach = radius if step % 2 == 0 else radius * 0.4
        angle = math.pi * (step / 5 - 0.5)
        corners.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    return corners


def _paint(scene: Scene) -> Image.Image:
    """A canvas filled with the scene's colour and pattern, to be pasted through the outlines."""
    paint = Image.new("RGB", (CANVAS, CANVAS), COLOURS[scene.colour])
    pen = ImageDraw.Draw(paint)
    ink = (20, 20, 20)
    if scene.pattern == "striped":
        for y in range(0, CANVAS, 4):
            pen.line((0, y, CANVAS, y), fill=ink)
    elif scene.pattern == "dotted":
        for x in range(1, CANVAS, 4):
            for y in range(1, CANVAS, 4):
                pen.rectangle((x, y, x + 1, y + 1), fill=ink)
    return paint
