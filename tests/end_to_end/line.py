"""A small landed world and the command line on it, as a user has them: files in, processes, files out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from xmas_job.demo.models import PROXY, TARGET, write_models
from xmas_job.demo.pool import write_heldout, write_pool
from xmas_job.demo.pretraining import Schedule

BRIEF = Schedule(num_seeing_steps=5, num_speaking_steps=5)
DEADLINE_SECONDS = 600.0

RECIPE: dict[str, Any] = {
    "datasets": ["demo"],
    "ingest": {"max_quarantine_fraction": 0.2},
    "proxy": {
        "model": "models/demo-proxy",
        "num_checkpoints": 3,
        "training": {"learning_rate": 1e-3, "global_batch": 16, "per_device_batch": 16, "max_length": 256},
    },
    "extract": {"partition_size": 48, "token_budget": 4096, "max_length": 256},
    "cluster": {"num_clusters": 6},
    "publish": {"budget": "20%"},
}
COMPARISON: dict[str, Any] = {
    "num_seeds": 1,
    "target": {
        "model": "models/demo-target",
        "lora": {"rank": 4, "alpha": 8, "dropout": 0.05},
        "training": {"learning_rate": 1e-3, "global_batch": 16, "per_device_batch": 16, "max_length": 256},
    },
    "evaluate": {"dataset": "demo_heldout", "max_new_tokens": 4},
}


@dataclass(frozen=True)
class World:
    """A store with landed data, and a recipe."""

    folder: Path

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.yaml"

    def environment(self) -> dict[str, str]:
        own = {"XMAS_STORE_ROOT": str(self.store), "XMAS_SCRATCH": str(self.folder / "scratch"), "XMAS_WORKERS": "2"}
        return {**os.environ, **own, "XMAS_LOG_FORMAT": "json"}

    def start(self, *arguments: str, variables: Mapping[str, str] | None = None, **popen: Any) -> subprocess.Popen[str]:
        """Start the command line; `variables` come on top of the world's own environment."""
        command = [sys.executable, "-m", "xmas_job.cli", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env={**self.environment(), **(variables or {})}, **{**pipes, **popen})

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments)
        stdout, stderr = process.communicate(timeout=DEADLINE_SECONDS)
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    def run(self, *arguments: str) -> dict[str, Any]:
        done = self.call("run", "--recipe", str(self.recipe), "--json", *arguments)
        assert done.returncode == 0, done.stderr[-3000:]
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def copy(self, folder: Path) -> World:
        """The same world elsewhere; times of change are kept, so the landed versions stay the same."""
        shutil.copytree(self.folder, folder)
        return World(folder)

    def published(self) -> dict[str, bytes]:
        """Bytes of what a consumer of the last selection reads."""
        (selection,) = (self.store / "selections").iterdir()
        names = ("manifest.json", "ranking.parquet", "subset.parquet", "exports/llava.json")
        return {name: (selection / name).read_bytes() for name in names}


def land(folder: Path, recipe: Mapping[str, Any]) -> World:
    """A world with a small pool, a held-out set and models that saw a few batches."""
    world = World(folder)
    for name, write in {
        "demo": lambda d: write_pool(d, num_examples=150),
        "demo_heldout": lambda d: write_heldout(d, num_per_family=3),
    }.items():
        version = world.store / "landing" / name / "v1"
        version.mkdir(parents=True)
        write(version)
        (version / "_SUCCESS").touch()
    write_models(world.store / "models", shapes=(replace(PROXY, schedule=BRIEF), replace(TARGET, schedule=BRIEF)))
    world.recipe.write_text(yaml.safe_dump(recipe))
    return world
