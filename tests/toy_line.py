"""A line of three tiny real stages, and a folder through which a test watches and disturbs them.

numbers (from landed data) -> squares (in partitions) -> total.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.processes import wait_until
from xmas_job.environment import Environment
from xmas_job.errors import BadDataError
from xmas_job.pipeline import Inputs, Node, StageSpec
from xmas_job.recipe_files import load_config
from xmas_job.runner import Run, Runner
from xmas_job.sections import Section
from xmas_job.stage_io import Metrics, Source, StageIO
from xmas_job.storage.record import Artifact
from xmas_job.storage.roots import open_store
from xmas_job.storage.store import Store

LANDING = "landing:toy"


class ToySection(Section):
    naming = frozenset({"control"})

    control: str
    num_examples: int = 10
    partition_size: int = 4


class Control:
    """Orders to the stages, and notes of what they did; shared by all processes of a test."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(exist_ok=True)

    def order(self, what: str) -> None:
        """ "hold <stage>": stand still half-way; "break <stage>": fail half-way."""
        (self.folder / what).touch()

    def lift(self, what: str) -> None:
        (self.folder / what).unlink()

    def is_ordered(self, what: str) -> bool:
        return (self.folder / what).exists()

    def note(self, what: str) -> None:
        (self.folder / f"noted {what} {os.getpid()} {time.monotonic_ns()}").touch()

    def count(self, what: str) -> int:
        return len(list(self.folder.glob(f"noted {what} *")))

    def obey(self, stage: str) -> None:
        self.note(f"half-way {stage}")
        wait_until(lambda: not self.is_ordered(f"hold {stage}"), f"{stage} to be let go")
        if self.is_ordered(f"break {stage}"):
            raise BadDataError(f"{stage} was told to fail.", "Lift the order.")


def numbers(section: ToySection, io: StageIO) -> Metrics:
    assert io.source("landing").digest == "landed"
    io.output.json("numbers.json", list(range(section.num_examples)))
    Control(section.control).obey("numbers")
    io.output.json("more/last.json", section.num_examples - 1)
    return {"num_examples": section.num_examples}


def squares(section: ToySection, io: StageIO) -> Metrics:
    assert io.partition is not None
    Control(section.control).obey(f"squares {io.partition}")
    first = io.partition * section.partition_size
    some = json.loads(io.artifact("numbers").read("numbers.json"))[first : first + section.partition_size]
    io.output.json(f"squares/{io.partition}.json", [number**2 for number in some])
    return {"num_examples": len(some)}


def total(section: ToySection, io: StageIO) -> Metrics:
    Control(section.control).obey("total")
    squared = io.artifact("squares")
    value = sum(sum(json.loads(squared.read(path))) for path in squared.paths)
    assert io.artifacts["nothing"] == ()
    io.output.json("total.json", value)
    return {"total": value}


def show(artifact: Artifact, run: Run, key: str) -> None:
    """The follow-up of `numbers`."""
    Control(run.sources[LANDING].uri).note(f"shown {artifact.record.digest} {key}")


def _node(
    name: str, section: Section, inputs: Inputs, *, partitioned_by: str = "", follow_up: str = "", key: str = ""
) -> Node:
    spec = StageSpec(
        name=name,
        version=1,
        entrypoint=f"tests.toy_line:{name}",
        keys=lambda _: (key,),
        section=lambda _config, _key: section,
        inputs=lambda _config, _key: inputs,
        partitioned_by=partitioned_by,
        follow_up=follow_up,
    )
    return Node(spec, key, section, inputs)


@dataclass(frozen=True)
class ToyRun(Run):
    """A run of the toy line instead of the real one."""

    section: ToySection | None = None

    @cached_property
    def nodes(self) -> dict[str, Node]:
        assert self.section is not None
        line = (
            _node("numbers", self.section, {"landing": (LANDING,)}, follow_up="tests.toy_line:show", key="a"),
            _node("squares", self.section, {"numbers": ("numbers:a",)}, partitioned_by="numbers"),
            _node("total", self.section, {"squares": ("squares",), "nothing": ()}),
        )
        return {node.id: node for node in line}


NODES = ("numbers:a", "squares", "total")


def toy_runner(
    folder: Path, settings: Mapping[str, Any] | None = None, *, store: Store | None = None, **section: int
) -> Runner:
    """A runner with its store, scratch and control under `folder`; `settings` go to the environment."""
    control = Control(folder / "control").folder
    own = {"store_root": str(folder / "store"), "scratch": folder / "scratch", "lease_ttl_seconds": 60.0}
    environment = Environment(**{**own, **(settings or {})})
    run = ToyRun(
        run_id="toy",
        config=load_config("demo"),
        sources={LANDING: Source(str(control), "landed")},
        section=ToySection(control=str(control), **section),
    )
    return Runner(store or open_store(environment.store_root), environment, run)


def run_stage(folder: Path, node_id: str, settings: Mapping[str, Any] | None = None) -> tuple[str, str]:
    """Status and digest of a stage, for a process of its own."""
    result = toy_runner(folder, settings).run_stage(node_id)
    return result.status, result.artifact.record.digest
