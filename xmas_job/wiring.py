"""What a configuration makes of every stage: its nodes' keys, their sections and their inputs.

Owns which stages a method needs. The stages themselves are rows of `pipeline.STAGES`.
"""

from __future__ import annotations

from collections.abc import Mapping

from xmas_job.catalog.methods import ClusteringNeed, MethodEntry, SignalNeed, find_method
from xmas_job.catalog.needs import needs_of, parse_needs, unclustered_needs, united, written
from xmas_job.catalog.signals import SIGNALS
from xmas_job.config import IngestSection, RunConfig, SelectConfig
from xmas_job.sections import (
    ApplySelectorSection,
    ClusterSection,
    EncoderConfig,
    KMeansConfig,
    Section,
    SelectorSection,
    SelectorTraining,
)

SUBSET = "subset"
"""The arm of the method that was asked for."""
RANDOM = "random"
FULL = "full"

Inputs = Mapping[str, tuple[str, ...]]
"""Input name -> ids of nodes ("stage" or "stage:key") and sources ("landing:..." or "model:...")."""

ONE = ("",)


def node_id(stage: str, key: str = "") -> str:
    """Id of the node of `stage` with `key`."""
    return f"{stage}:{key}" if key else stage


def nodes(stage: str, keys: tuple[str, ...]) -> tuple[str, ...]:
    """Ids of the nodes of `stage` with `keys`."""
    return tuple(node_id(stage, key) for key in keys)


def split_training_key(key: str) -> tuple[str, int]:
    """The arm and the number of the training, from 0, of a train_target or evaluate node's key."""
    arm, _, seed = key.rpartition("/")
    return arm, int(seed)


def image_root(config: RunConfig, dataset: str) -> str:
    """Key of the folder that the image paths of a dataset version start from."""
    name, _, version = dataset.partition("@")
    return config.image_roots.get(name, f"landing/{name}/{version}")


def sources(config: RunConfig) -> dict[str, str]:
    """Source id -> what names it in the configuration: landed dataset versions and model folders."""
    found = {f"landing:{dataset}": dataset for dataset in landed(config)}
    if scored_datasets(config):
        assert config.proxy is not None
        found["model:proxy"] = config.proxy.model
    if encoded_datasets(config):
        assert config.encoder is not None
        found["model:encoder"] = config.encoder.model
    if _has_selector(config) and config.selector.uri is not None:
        found["model:selector"] = config.selector.uri
    if config.comparison:
        found["model:target"] = config.comparison.target.model
    return found


def is_source(identifier: str) -> bool:
    """Whether an input id names a source (landed data, a model) and not a node."""
    return identifier.startswith(("landing:", "model:"))


# --- which stages a method needs ------------------------------------------------------------------------------------


def _method(config: RunConfig, arm: str = SUBSET) -> MethodEntry:
    return find_method(config.select.method if arm == SUBSET else arm.partition(".")[0])


def _needs_from(method: MethodEntry, stage: str) -> tuple[SignalNeed, ...]:
    return tuple(need for need in needs_of(method) if SIGNALS[need.signal].stage == stage)


def _clustering(method: MethodEntry) -> ClusteringNeed | None:
    """The clusters of the pool itself that it reads."""
    return method.clustering if method.clustering and method.clustering.by == "k-means" else None


def _reads_selector(method: MethodEntry) -> bool:
    is_clustered = method.clustering is not None and method.clustering.by == "selector"
    return is_clustered or bool(_needs_from(method, "apply_selector"))


def _has_selector(config: RunConfig) -> bool:
    return _reads_selector(_method(config))


# --- keys -----------------------------------------------------------------------------------------------------------


def one(_: RunConfig) -> tuple[str, ...]:
    """The one node of its kind."""
    return ONE


def landed(config: RunConfig) -> tuple[str, ...]:
    """Dataset versions of the pool, and the held-out one."""
    held_out = (config.comparison.evaluate.dataset,) if config.comparison else ()
    return (*config.datasets, *held_out)


def scored_datasets(config: RunConfig) -> tuple[str, ...]:
    """Dataset versions that the proxy looks at."""
    return config.datasets if _needs_from(_method(config), "extract") else ()


def one_if_proxy(config: RunConfig) -> tuple[str, ...]:
    """A node if the method needs a signal of the proxy."""
    return ONE if scored_datasets(config) else ()


def encoded_datasets(config: RunConfig) -> tuple[str, ...]:
    """Dataset versions that the dual encoder looks at."""
    method = _method(config)
    return config.datasets if _needs_from(method, "encode") or _reads_selector(method) else ()


def one_if_selector_is_trained(config: RunConfig) -> tuple[str, ...]:
    """A node if the method needs a selector, and none is given."""
    return ONE if _has_selector(config) and config.selector.uri is None else ()


def one_if_selector(config: RunConfig) -> tuple[str, ...]:
    """A node if the method needs a selector."""
    return ONE if _has_selector(config) else ()


def one_if_clustered(config: RunConfig) -> tuple[str, ...]:
    """A node if the method needs clusters of the pool."""
    return ONE if _clustering(_method(config)) else ()


def arms(config: RunConfig) -> tuple[str, ...]:
    """The selection that was asked for, and those it is compared with."""
    if config.comparison is None:
        return (SUBSET,)
    random_arms = tuple(f"{RANDOM}.{seed}" for seed in range(config.comparison.num_seeds))
    return (SUBSET, *random_arms, *((FULL,) if config.comparison.with_full else ()))


def trained(config: RunConfig) -> tuple[str, ...]:
    """One key a target training: "<arm>/<seed>"."""
    if config.comparison is None:
        return ()
    seeds = range(config.comparison.num_seeds)
    subset = tuple(f"{SUBSET}/{seed}" for seed in seeds)
    random_arms = tuple(f"{RANDOM}.{seed}/{seed}" for seed in seeds)
    return (*subset, *random_arms, *((f"{FULL}/0",) if config.comparison.with_full else ()))


# --- sections -------------------------------------------------------------------------------------------------------


def ingest_section(config: RunConfig, dataset: str) -> Section:
    """The settings, and where the version's images lie."""
    return IngestSection(**config.ingest.model_dump(), image_root=image_root(config, dataset))


def proxy_section(config: RunConfig, _: str) -> Section:
    """As in the configuration, which has one where a signal of it is needed."""
    assert config.proxy is not None
    return config.proxy


def extract_section(config: RunConfig, _: str) -> Section:
    """With the signals that the method needs, beside those that the recipe asks for."""
    needs = united((*_needs_from(_method(config), "extract"), *parse_needs(config.extract.signals)))
    return config.extract.model_copy(update={"signals": written(needs)})


def encoder_section(config: RunConfig, _: str) -> EncoderConfig:
    """As in the configuration, which has one where a signal of it is needed."""
    assert config.encoder is not None
    return config.encoder


def selector_section(config: RunConfig, _: str) -> Section:
    """With K: the recipe's, else the method's."""
    clustering, asked = _method(config).clustering, config.selector.num_clusters
    assert clustering is not None
    return SelectorSection(
        **config.selector.model_dump(include=set(SelectorTraining.model_fields)),
        num_clusters=asked or clustering.num_clusters,
        is_most=asked is None,
    )


def apply_selector_section(_config: RunConfig, _key: str) -> Section:
    """Nothing: a selector is applied as it is."""
    return ApplySelectorSection()


def cluster_section(config: RunConfig, _: str) -> Section:
    """The method's need, with what the recipe says otherwise."""
    need, asked = _clustering(_method(config)), config.cluster
    assert need is not None
    own = asked.model_dump(include=set(KMeansConfig.model_fields))
    if need.signal != "alignment":
        own["score"] = "sum"  # of one value, and vectors are never summed
    return ClusterSection(
        **own,
        signal=need.signal,
        checkpoints=need.checkpoints,
        num_clusters=asked.num_clusters or need.num_clusters,
        num_iterations=asked.num_iterations or need.num_iterations,
        spherical=need.spherical if asked.spherical is None else asked.spherical,
        is_most=asked.num_clusters is None,
    )


def select_section(config: RunConfig, arm: str) -> Section:
    """The asked-for method, or a baseline with a seed of its own."""
    if arm == SUBSET:
        is_nested = _method(config).nested
        return config.select.model_copy(update={"budget": None if is_nested else config.publish.budget})
    name, _, number = arm.partition(".")
    # Never the seed of the asked-for selection: a random one would be compared with itself.
    seed = config.select.seed + 1 + int(number or 0)
    return SelectConfig(method=name, text_only=config.select.text_only, seed=seed)


def publish_section(config: RunConfig, arm: str) -> Section:
    """The budget; everything for the full reference."""
    return config.publish.model_copy(update={"budget": "100%"}) if arm == FULL else config.publish


def target_section(config: RunConfig, key: str) -> Section:
    """With a seed for each training."""
    assert config.comparison is not None
    target = config.comparison.target
    _, number = split_training_key(key)
    training = target.training.model_copy(update={"seed": target.training.seed + number})
    return target.model_copy(update={"training": training})


def evaluate_section(config: RunConfig, _: str) -> Section:
    """As in the configuration."""
    assert config.comparison is not None
    return config.comparison.evaluate


# --- inputs ---------------------------------------------------------------------------------------------------------


def train_proxy_inputs(config: RunConfig, _: str) -> Inputs:
    """The pool, its texts and images, and the model to start from."""
    return {"pool": ("pool",), "ingest": nodes("ingest", config.datasets), "model": ("model:proxy",)}


def train_selector_inputs(config: RunConfig, _: str) -> Inputs:
    """The pool and its features."""
    return {"pool": ("pool",), "encode": nodes("encode", config.datasets)}


def apply_selector_inputs(config: RunConfig, _: str) -> Inputs:
    """The pool, its features, and a selector of this run or a trained one."""
    selector = "train_selector" if config.selector.uri is None else "model:selector"
    return {"pool": ("pool",), "encode": nodes("encode", config.datasets), "selector": (selector,)}


def cluster_inputs(config: RunConfig, _: str) -> Inputs:
    """The pool, and the parts of the signal that is clustered."""
    need = _clustering(_method(config))
    assert need is not None
    stage = SIGNALS[need.signal].stage
    return {"pool": ("pool",), stage: nodes(stage, config.datasets)}


def select_inputs(config: RunConfig, arm: str) -> Inputs:
    """The pool, its clusters if the method reads them, and the parts of its other signals."""
    method = _method(config, arm)
    found: dict[str, tuple[str, ...]] = {"pool": ("pool",)}
    if _clustering(method):
        found["cluster"] = ("cluster",)
    if _reads_selector(method):
        found["apply_selector"] = ("apply_selector",)
    for need in unclustered_needs(method):
        stage = SIGNALS[need.signal].stage
        if stage != "apply_selector":
            found[stage] = nodes(stage, config.datasets)
    return found


def publish_inputs(config: RunConfig, arm: str) -> Inputs:
    """The pool, its ranking and its texts; and the proxy, which the manifest names."""
    proxy = {"proxy": ("train_proxy",)} if arm == SUBSET and scored_datasets(config) else {}
    return {
        "pool": ("pool",),
        "ranking": (node_id("select", arm),),
        "ingest": nodes("ingest", config.datasets),
        **proxy,
    }


def train_target_inputs(config: RunConfig, key: str) -> Inputs:
    """The arm's subset, its texts and images, and the model to start from."""
    arm, _ = split_training_key(key)
    return {
        "subset": (node_id("publish", arm),),
        "ingest": nodes("ingest", config.datasets),
        "model": ("model:target",),
    }


def evaluate_inputs(config: RunConfig, key: str) -> Inputs:
    """The trained adapter, its model, and the held-out examples."""
    assert config.comparison is not None
    held_out = config.comparison.evaluate.dataset
    return {
        "adapter": (node_id("train_target", key),),
        "ingest": (node_id("ingest", held_out),),
        "model": ("model:target",),
    }


def report_inputs(config: RunConfig, _: str) -> Inputs:
    """Everything a page is made from."""
    return {
        "ingest": nodes("ingest", config.datasets),
        "pool": ("pool",),
        "proxy": nodes("train_proxy", one_if_proxy(config)),
        "extract": nodes("extract", scored_datasets(config)),
        "cluster": nodes("cluster", one_if_clustered(config)),
        **({"apply_selector": ("apply_selector",)} if _has_selector(config) else {}),
        "ranking": (node_id("select", SUBSET),),
        "selection": (node_id("publish", SUBSET),),
        "target": nodes("train_target", trained(config)),
        "scores": nodes("evaluate", trained(config)),
    }
