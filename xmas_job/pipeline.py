"""The straight line as data: which stages there are, what each reads, and the plan of one run.

Owns the wiring, in one tuple. Pure: no store, no torch; DAG files and `plan` import it in milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from xmas_job.catalog.methods import find_method
from xmas_job.config import Hardware, IngestSection, ReportConfig, RunConfig, Section, SelectConfig
from xmas_job.fingerprint import stage_fingerprint

SUBSET = "subset"
"""The arm of the method that was asked for."""
RANDOM = "random"
FULL = "full"

Inputs = Mapping[str, tuple[str, ...]]
"""Input name -> ids of nodes ("stage" or "stage:key") and sources ("landing:..." or "model:...")."""


@dataclass(frozen=True)
class Resources:
    """What a launcher has to provide for one process of the stage."""

    gpus: int = 0
    memory_gb: int = 4
    hours: float = 1.0


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


def node_id(stage: str, key: str = "") -> str:
    """Id of the node of `stage` with `key`."""
    return f"{stage}:{key}" if key else stage


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


def sources(config: RunConfig) -> dict[str, str]:
    """Source id -> what names it in the configuration: landed dataset versions and model folders."""
    found = {f"landing:{dataset}": dataset for dataset in _landed(config)}
    if _clustered(config):
        found["model:proxy"] = config.proxy.model
    if config.comparison:
        found["model:target"] = config.comparison.target.model
    return found


def is_source(identifier: str) -> bool:
    """Whether an input id names a source (landed data, a model) and not a node."""
    return identifier.startswith(("landing:", "model:"))


def _one(_: RunConfig) -> tuple[str, ...]:
    return ("",)


def _landed(config: RunConfig) -> tuple[str, ...]:
    held_out = (config.comparison.evaluate.dataset,) if config.comparison else ()
    return (*config.datasets, *held_out)


def _clustered(config: RunConfig) -> bool:
    return find_method(config.select.method).clustered_signal is not None


def _one_if_clustered(config: RunConfig) -> tuple[str, ...]:
    return ("",) if _clustered(config) else ()


def _scored_datasets(config: RunConfig) -> tuple[str, ...]:
    return config.datasets if _clustered(config) else ()


def _arms(config: RunConfig) -> tuple[str, ...]:
    if config.comparison is None:
        return (SUBSET,)
    random_arms = tuple(f"{RANDOM}.{seed}" for seed in range(config.comparison.num_seeds))
    return (SUBSET, *random_arms, *((FULL,) if config.comparison.with_full else ()))


def _trained(config: RunConfig) -> tuple[str, ...]:
    """One key a target training: "<arm>/<seed>"."""
    if config.comparison is None:
        return ()
    seeds = range(config.comparison.num_seeds)
    subset = tuple(f"{SUBSET}/{seed}" for seed in seeds)
    random_arms = tuple(f"{RANDOM}.{seed}/{seed}" for seed in seeds)
    return (*subset, *random_arms, *((f"{FULL}/0",) if config.comparison.with_full else ()))


def split_training_key(key: str) -> tuple[str, int]:
    """The arm and the number of the training, from 0, of a train_target or evaluate node's key."""
    arm, _, seed = key.rpartition("/")
    return arm, int(seed)


def image_root(config: RunConfig, dataset: str) -> str:
    """Key of the folder that the image paths of a dataset version start from."""
    name, _, version = dataset.partition("@")
    return config.image_roots.get(name, f"landing/{name}/{version}")


def _ingest_section(config: RunConfig, dataset: str) -> Section:
    return IngestSection(**config.ingest.model_dump(), image_root=image_root(config, dataset))


def _select_section(config: RunConfig, arm: str) -> Section:
    if arm == SUBSET:
        is_nested = find_method(config.select.method).nested
        return config.select.model_copy(update={"budget": None if is_nested else config.publish.budget})
    name, _, number = arm.partition(".")
    # Never the seed of the asked-for selection: a random one would be compared with itself.
    seed = config.select.seed + 1 + int(number or 0)
    return SelectConfig(method=name, text_only=config.select.text_only, seed=seed)


def _publish_section(config: RunConfig, arm: str) -> Section:
    return config.publish.model_copy(update={"budget": "100%"}) if arm == FULL else config.publish


def _target_section(config: RunConfig, key: str) -> Section:
    assert config.comparison is not None
    target = config.comparison.target
    _, number = split_training_key(key)
    training = target.training.model_copy(update={"seed": target.training.seed + number})
    return target.model_copy(update={"training": training})


def _evaluate_section(config: RunConfig, _: str) -> Section:
    assert config.comparison is not None
    return config.comparison.evaluate


def _nodes(stage: str, keys: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(node_id(stage, key) for key in keys)


def _select_inputs(config: RunConfig, arm: str) -> Inputs:
    method = config.select.method if arm == SUBSET else arm.partition(".")[0]
    cluster = {"cluster": ("cluster",)} if find_method(method).clustered_signal else {}
    return {"pool": ("pool",), **cluster}


def _publish_inputs(config: RunConfig, arm: str) -> Inputs:
    proxy = {"proxy": ("train_proxy",)} if arm == SUBSET and _clustered(config) else {}
    return {
        "pool": ("pool",),
        "ranking": (node_id("select", arm),),
        "ingest": _nodes("ingest", config.datasets),
        **proxy,
    }


def _train_target_inputs(config: RunConfig, key: str) -> Inputs:
    arm, _ = split_training_key(key)
    return {
        "subset": (node_id("publish", arm),),
        "ingest": _nodes("ingest", config.datasets),
        "model": ("model:target",),
    }


def _evaluate_inputs(config: RunConfig, key: str) -> Inputs:
    assert config.comparison is not None
    held_out = config.comparison.evaluate.dataset
    return {
        "adapter": (node_id("train_target", key),),
        "ingest": (node_id("ingest", held_out),),
        "model": ("model:target",),
    }


def _report_inputs(config: RunConfig, _: str) -> Inputs:
    return {
        "ingest": _nodes("ingest", config.datasets),
        "pool": ("pool",),
        "proxy": _nodes("train_proxy", _one_if_clustered(config)),
        "extract": _nodes("extract", _scored_datasets(config)),
        "cluster": _nodes("cluster", _one_if_clustered(config)),
        "ranking": (node_id("select", SUBSET),),
        "selection": (node_id("publish", SUBSET),),
        "target": _nodes("train_target", _trained(config)),
        "scores": _nodes("evaluate", _trained(config)),
    }


STAGES: tuple[StageSpec, ...] = (
    StageSpec(
        name="ingest",
        version=2,
        entrypoint="xmas_job.stages.ingest:run",
        keys=_landed,
        section=_ingest_section,
        inputs=lambda _, dataset: {"landing": (f"landing:{dataset}",)},
    ),
    StageSpec(
        name="pool",
        version=1,
        entrypoint="xmas_job.stages.pool:run",
        follow_up="xmas_job.stages.pool:check_request",
        keys=_one,
        section=lambda config, _: config.pool,
        inputs=lambda config, _: {"ingest": _nodes("ingest", config.datasets)},
    ),
    StageSpec(
        name="train_proxy",
        version=1,
        entrypoint="xmas_job.stages.train_proxy:run",
        keys=_one_if_clustered,
        section=lambda config, _: config.proxy,
        inputs=lambda config, _: {
            "pool": ("pool",),
            "ingest": _nodes("ingest", config.datasets),
            "model": ("model:proxy",),
        },
        resources=Resources(gpus=4, memory_gb=128, hours=24),
    ),
    StageSpec(
        name="extract",
        version=2,
        entrypoint="xmas_job.stages.extract:run",
        keys=_scored_datasets,
        section=lambda config, _: config.extract,
        inputs=lambda _, dataset: {
            "ingest": (node_id("ingest", dataset),),
            "proxy": ("train_proxy",),
        },
        resources=Resources(gpus=1, memory_gb=64, hours=4),
        partitioned_by="ingest",
    ),
    StageSpec(
        name="cluster",
        version=2,
        entrypoint="xmas_job.stages.cluster:run",
        keys=_one_if_clustered,
        section=lambda config, _: config.cluster,
        inputs=lambda config, _: {"pool": ("pool",), "extract": _nodes("extract", config.datasets)},
    ),
    StageSpec(
        name="select",
        version=1,
        entrypoint="xmas_job.stages.select:run",
        keys=_arms,
        section=_select_section,
        inputs=_select_inputs,
    ),
    StageSpec(
        name="publish",
        version=1,
        entrypoint="xmas_job.stages.publish:run",
        keys=_arms,
        section=_publish_section,
        inputs=_publish_inputs,
        follow_up="xmas_job.stages.publish:release",
    ),
    StageSpec(
        name="train_target",
        version=1,
        entrypoint="xmas_job.stages.train_target:run",
        keys=_trained,
        section=_target_section,
        inputs=_train_target_inputs,
        resources=Resources(gpus=4, memory_gb=128, hours=24),
    ),
    StageSpec(
        name="evaluate",
        version=1,
        entrypoint="xmas_job.stages.evaluate:run",
        keys=_trained,
        section=_evaluate_section,
        inputs=_evaluate_inputs,
        resources=Resources(gpus=1, memory_gb=64, hours=4),
    ),
    StageSpec(
        name="report",
        version=2,
        entrypoint="xmas_job.stages.report:run",
        keys=_one,
        section=lambda _config, _key: ReportConfig(),
        inputs=_report_inputs,
        follow_up="xmas_job.stages.report:release",
    ),
)
