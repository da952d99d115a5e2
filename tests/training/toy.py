"""A pool that a tiny model can learn: the colour of a plain image, and a text-only question; each bears a number."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from tests.tiny_models import tiny_llava
from xmas_job.data.examples import Example, Turn, compute_uid
from xmas_job.models.adapter import LVLM
from xmas_job.training.schedule import checkpoint_positions
from xmas_job.training.settings import Execution, LoraSettings, TrainingSettings
from xmas_job.training.sft import ALONE, train_full, train_lora

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


def ignore_adapter(save: object) -> None:
    pass


def ignore_progress(examples_seen: int, num_examples: int) -> None:
    pass


@dataclass
class Run:
    """A finished training: where it wrote, the trained model, what it returned and what it told on the way."""

    directory: Path
    lvlm: LVLM = field(default_factory=tiny_llava)
    metrics: dict[str, Any] = field(default_factory=dict)
    checkpoints: list[tuple[int, int, int]] = field(default_factory=list)
    progress: list[tuple[int, int]] = field(default_factory=list)


def train_toy_proxy(directory: Path, execution: Execution = ALONE, on_progress: Any = ignore_progress) -> Run:
    """36 mixed examples: 5 steps of 8 (the last of 4), checkpoints 0 to 3 in directories of these names."""
    run = Run(directory)

    def on_checkpoint(index: int, step: int, examples_seen: int, save: Any) -> None:
        run.checkpoints.append((index, step, examples_seen))
        save(directory / str(index))

    def tell(*done: int) -> None:
        run.progress.append(done)  # type: ignore[arg-type]
        on_progress(*done)

    run.metrics = train_full(
        run.lvlm,
        mixed_pool(36),
        load_image,
        settings(),
        checkpoint_steps=checkpoint_positions(36, 3, 8),
        on_checkpoint=on_checkpoint,
        on_progress=tell,
        execution=execution,
    )
    return run


def train_toy_target(directory: Path, base: LVLM | None = None) -> Run:
    """64 mixed examples; with dropout, which draws random numbers at every step."""
    run = Run(directory, base or tiny_llava())
    run.metrics = train_lora(
        run.lvlm,
        mixed_pool(64),
        load_image,
        settings(lora=LoraSettings(rank=4, alpha=8, dropout=0.1), projector_learning_rate=1e-3),
        on_adapter=lambda save: save(directory),
        on_progress=lambda *done: run.progress.append(done),
    )
    return run


def files_of(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*.*"))}


def _example(turns: tuple[Turn, ...], uris: tuple[str, ...] = ()) -> Example:
    return Example(compute_uid(turns, uris), turns, uris)
