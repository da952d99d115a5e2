"""A store in which a small dataset has landed, and a configuration that needs neither proxy nor GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from xmas_job.config import RunConfig, validate_config
from xmas_job.environment import Environment
from xmas_job.storage.local import LocalStore

NUM_IMAGES, NUM_TEXTS = 9, 3
RECIPE: dict[str, Any] = {
    "datasets": ["demo"],
    "proxy": {"model": "models/none"},
    "select": {"method": "random"},
    "publish": {"budget": "50%"},
}
"""The model is not there: a method without a signal must not ask for it."""


@dataclass(frozen=True)
class World:
    folder: Path

    @cached_property
    def store(self) -> LocalStore:
        return LocalStore(self.folder / "store")

    @property
    def variables(self) -> dict[str, str]:
        return {
            "XMAS_STORE_ROOT": str(self.folder / "store"),
            "XMAS_SCRATCH": str(self.folder / "scratch"),
            "XMAS_WORKERS": "2",
            "XMAS_LOG_FORMAT": "json",
        }

    @property
    def environment(self) -> Environment:
        return Environment(
            store_root=str(self.folder / "store"), scratch=self.folder / "scratch", workers=2, log_format="json"
        )

    def config(self, **changes: Any) -> RunConfig:
        return validate_config({**RECIPE, **changes}, where="test")

    def recipe(self) -> str:
        """Path of the recipe as a file."""
        path = self.folder / "recipe.yaml"
        path.write_text(json.dumps(RECIPE))
        return str(path)

    def call(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """The command line, as a process of its own."""
        command = [sys.executable, "-m", "xmas_job.cli", *arguments]
        environment = {**os.environ, **self.variables, **variables}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def land(folder: Path, versions: tuple[str, ...] = ("v1",)) -> World:
    world = World(folder)
    for version in versions:
        land_version(world, "demo", version)
    return world


def land_version(world: World, dataset: str, version: str, *, is_whole: bool = True) -> Path:
    landed = world.folder / "store/landing" / dataset / version
    (landed / "images").mkdir(parents=True)
    rows = []
    for number in range(NUM_IMAGES):
        Image.new("RGB", (8, 8), (number * 20, 0, 0)).save(landed / "images" / f"{number}.png")
        rows.append(_row(number, f"<image>\nHow red, {number}?", {"image": f"images/{number}.png"}))
    rows += [_row(NUM_IMAGES + number, f"What is {number}?", {}) for number in range(NUM_TEXTS)]
    (landed / "data.json").write_text(json.dumps(rows))
    if is_whole:
        (landed / "_SUCCESS").touch()
    return landed


def _row(number: int, question: str, image: dict[str, str]) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": str(number)}]
    return {"id": str(number), **image, "conversations": turns}
