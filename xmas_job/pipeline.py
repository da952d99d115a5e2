"""The straight line as data: which stages there are, what each reads, and the plan of one run.

Owns the stages, in one tuple; what a configuration makes of each is in `wiring`. Pure: no store, no torch; DAG files
and `plan` import it in milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from xmas_job import wiring
from xmas_job.config import ReportConfig, RunConfig
from xmas_job.fingerprint import stage_fingerprint
from xmas_job.sections import Hardware, Section
from xmas_job.wiring import FULL, RANDOM, SUBSET, Inputs, image_root, is_source, node_id, sources, split_training_key

__all__ = [
    "FULL", "RANDOM", "STAGES", "SUBSET", "Inputs", "Node", "Resources", "StageSpec",
    "image_root", "is_source", "node_id", "plan", "sources", "split_training_key",
]  # fmt: skip


@dataclass(frozen=True)
class Resources:
    """What a launcher has to provide for one process of the stage."""

    gpus: int = 0
    memory_gb: int = 4
    hours: float = 1.0


LARGE = Resources(memory_gb=16)
"""For stages that read features of all examples: memory-mapped, but blocks and centroids of them are held."""


@dataclass(frozen=True)
class StageSpec:
    """One stage of the line. A stage is this row and a function `run(section, io) -> metrics`."""

    name: str
    version: int
    """Bump when the meaning of the output changes: it enters the fingerprint."""
    entrypoint: str
    keys: Callable[[RunConfig], tuple[str, ...]]
    """One node a key: a dataset version, an arm, or "" for the one of its kind."""
    section: Callable[[RunConfig, str], Section]
    inputs: Callable[[RunConfig, str], Inputs]
    resources: Resources = Resources()
    partitioned_by: str = ""
    """Name of the input whose examples are cut into partitions; "" if the stage is one piece."""
    follow_up: str = ""
    """ "module:function" called with (artifact, run, key) after every build and every hit: it shows the artifact in the
    run (channel, report) or refuses the run (a budget above the pool). Safe to repeat."""


@dataclass(frozen=True)
class Node:
    """A stage with its key, section and inputs filled in: what runs, is cached and is shown."""

    spec: StageSpec
    key: str
    section: Section
    inputs: Inputs

    @property
    def id(self) -> str:
        """E.g. "pool" or "extract:demo@v1"."""
        return node_id(self.spec.name, self.key)

    def identity(self, digest: Callable[[str], str]) -> dict[str, Any]:
        """What determines the bytes, beside the stage's name; `digest` is called with input ids."""
        inputs = {name: [digest(item) for item in items] for name, items in sorted(self.inputs.items())}
        return {"version": self.spec.version, "section": self.section.identity(), "inputs": inputs}

    def address(self, digest: Callable[[str], str]) -> str:
        """Folder of the artifact in a store."""
        return f"artifacts/{self.spec.name}/{stage_fingerprint(self.spec.name, **self.identity(digest))}"

    @property
    def uses_gpu(self) -> bool:
        """Whether the section asks for a GPU."""
        hardware = getattr(getattr(self.section, "training", self.section), "hardware", Hardware())
        return bool(hardware.device == "cuda")


def plan(config: RunConfig) -> tuple[Node, ...]:
    """The nodes of one run, every node after its inputs.

    Args:
        config: with literal dataset versions ("name@version"), as resolved at the start of a run.
    """
    return tuple(
        Node(spec, key, spec.section(config, key), spec.inputs(config, key))
        for spec in STAGES
        for key in spec.keys(config)
    )


STAGES: tuple[StageSpec, ...] = (
    StageSpec(
        name="ingest",
        version=2,
        entrypoint="xmas_job.stages.ingest:run",
        keys=wiring.landed,
        section=wiring.ingest_section,
        inputs=lambda _, dataset: {"landing": (f"landing:{dataset}",)},
    ),
    StageSpec(
        name="pool",
        version=1,
        entrypoint="xmas_job.stages.pool:run",
        follow_up="xmas_job.stages.pool:check_request",
        keys=wiring.one,
        section=lambda config, _: config.pool,
        inputs=lambda config, _: {"ingest": wiring.nodes("ingest", config.datasets)},
    ),
    StageSpec(
        name="train_proxy",
        version=2,
        entrypoint="xmas_job.stages.train_proxy:run",
        keys=wiring.one_if_proxy,
        section=wiring.proxy_section,
        inputs=wiring.train_proxy_inputs,
        resources=Resources(gpus=4, memory_gb=128, hours=24),
    ),
    StageSpec(
        name="extract",
        version=3,
        entrypoint="xmas_job.stages.extract:run",
        keys=wiring.scored_datasets,
        section=wiring.extract_section,
        inputs=lambda _, dataset: {"ingest": (node_id("ingest", dataset),), "proxy": ("train_proxy",)},
        resources=Resources(gpus=1, memory_gb=64, hours=4),
        partitioned_by="ingest",
    ),
    StageSpec(
        name="encode",
        version=1,
        entrypoint="xmas_job.stages.encode:run",
        keys=wiring.encoded_datasets,
        section=wiring.encoder_section,
        inputs=lambda _, dataset: {"ingest": (node_id("ingest", dataset),), "encoder": ("model:encoder",)},
        resources=Resources(gpus=1, memory_gb=16, hours=4),
        partitioned_by="ingest",
    ),
    StageSpec(
        name="train_selector",
        version=1,
        entrypoint="xmas_job.stages.train_selector:run",
        keys=wiring.one_if_selector_is_trained,
        section=wiring.selector_section,
        inputs=wiring.train_selector_inputs,
        resources=LARGE,
        follow_up="xmas_job.stages.train_selector:release",
    ),
    StageSpec(
        name="apply_selector",
        version=1,
        entrypoint="xmas_job.stages.apply_selector:run",
        keys=wiring.one_if_selector,
        section=wiring.apply_selector_section,
        inputs=wiring.apply_selector_inputs,
        resources=LARGE,
    ),
    StageSpec(
        name="cluster",
        version=2,
        entrypoint="xmas_job.stages.cluster:run",
        keys=wiring.one_if_clustered,
        section=wiring.cluster_section,
        inputs=wiring.cluster_inputs,
        resources=LARGE,
    ),
    StageSpec(
        name="select",
        version=1,
        entrypoint="xmas_job.stages.select:run",
        keys=wiring.arms,
        section=wiring.select_section,
        inputs=wiring.select_inputs,
        resources=LARGE,
    ),
    StageSpec(
        name="publish",
        version=1,
        entrypoint="xmas_job.stages.publish:run",
        keys=wiring.arms,
        section=wiring.publish_section,
        inputs=wiring.publish_inputs,
        follow_up="xmas_job.stages.publish:release",
    ),
    StageSpec(
        name="train_target",
        version=2,
        entrypoint="xmas_job.stages.train_target:run",
        keys=wiring.trained,
        section=wiring.target_section,
        inputs=wiring.train_target_inputs,
        resources=Resources(gpus=4, memory_gb=128, hours=24),
    ),
    StageSpec(
        name="evaluate",
        version=1,
        entrypoint="xmas_job.stages.evaluate:run",
        keys=wiring.trained,
        section=wiring.evaluate_section,
        inputs=wiring.evaluate_inputs,
        resources=Resources(gpus=1, memory_gb=64, hours=4),
    ),
    StageSpec(
        name="report",
        version=2,
        entrypoint="xmas_job.stages.report:run",
        keys=wiring.one,
        section=lambda _config, _key: ReportConfig(),
        inputs=wiring.report_inputs,
        follow_up="xmas_job.stages.report:release",
    ),
)
