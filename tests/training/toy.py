"""A pool that a tiny model can learn: the colour of a plain image, and a text-only question. Every question bears a number."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from xmas_job.data.examples import Example, Turn, compute_uid
from xmas_job.training.sft import LoraSettings, TrainingSettings

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}


def load_image(uri: str) -> Image.Image:
    return Image.new("RGB", (32, 32), COLOURS[uri])


def image_example(colour: str, number: int = 0) -> Example:
    return _example((Turn("user", f"Which colour {number}?", 1), Turn("assistant", colour)), (colour,))


def text_example(number: int = 0) -> Example:
    return _example((Turn("user", f"How many {number}?"), Turn("assistant", "one two three")))


def image_pool(num_examples: int) -> list[Example]:
    return [image_example(list(COLOURS)[number % 4], number) for number in range(num_examples)]


def text_pool(num_examples: int) -> list[Example]:
    return [text_example(number) for number in range(num_examples)]


def mixed_pool(num_examples: int) -> list[Example]:
    """Three examples with an image, then one without, and so on."""
    images, texts = iter(image_pool(num_examples)), iter(text_pool(num_examples))
    return [next(texts if number % 4 == 3 else images) for number in range(num_examples)]


def settings(**changes: object) -> TrainingSettings:
    defaults: dict[str, object] = {
        "learning_rate": 5e-3,
        "global_batch": 8,
        "per_device_batch": 8,
        "seed": 0,
        "max_length": 128,
        "lora": LoraSettings(rank=4, alpha=8, dropout=0.0),
    }
    return TrainingSettings(**{**defaults, **changes})  # type: ignore[arg-type]


def ignore_checkpoint(index: int, step: int, examples_seen: int, save: object) -> None:
    pass


def ignore_progress(examples_seen: int, num_examples: int) -> None:
    pass


def files_of(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*.*"))}


def _example(turns: tuple[Turn, ...], uris: tuple[str, ...] = ()) -> Example:
    return Example(compute_uid(turns, uris), turns, uris)
