from __future__ import annotations

from typing import Any

import pytest

from xmas_job.catalog.methods import METHODS
from xmas_job.config import RunConfig, validate_config
from xmas_job.entrypoints import load_entrypoint
from xmas_job.pipeline import STAGES, Node, is_source, node_id, plan, sources, split_training_key
from xmas_job.recipe_files import load_config, recipe_names

COMPARISON: dict[str, Any] = {
    "num_seeds": 2,
    "target": {"model": "models/t"},
    "evaluate": {"dataset": "held@v1"},
}
TRUNK = ["ingest:a@v1", "ingest:b@v3", "pool"]
PROXY = ["train_proxy", "extract:a@v1", "extract:b@v3", "cluster"]
ARMS = ["subset", "random.0", "random.1"]
TRAINED = ["subset/0", "subset/1", "random.0/0", "random.1/1"]


def config_of(method: str, comparison: dict[str, Any] | None = None, **changes: Any) -> RunConfig:
    data = {
        "datasets": ["a@v1", "b@v3"],
        "proxy": {"model": "models/p"},
        "encoder": {"model": "models/e"},
        "select": {"method": method},
        "publish": {"budget": "10%"},
        "comparison": comparison,
        **changes,
    }
    return validate_config(data, where="test")


CONFIGS = {
    f"{method} {name}": config_of(method, comparison)
    for method in METHODS
    for name, comparison in {
        "alone": None,
        "compared": COMPARISON,
        "with full": {**COMPARISON, "with_full": True},
    }.items()
} | {recipe: load_config(recipe) for recipe in recipe_names()}


def nodes(config: RunConfig) -> dict[str, Node]:
    return {node.id: node for node in plan(config)}


def inputs(node: Node) -> list[str]:
    return [item for items in node.inputs.values() for item in items]


def under(stage: str, keys: list[str]) -> list[str]:
    return [f"{stage}:{key}" for key in keys]


def test_plan_of_xmas_alone() -> None:
    assert [*nodes(config_of("xmas"))] == [*TRUNK, *PROXY, "select:subset", "publish:subset", "report"]


@pytest.mark.parametrize("method", ["random", "full"])
def test_plan_without_a_signal_needs_no_proxy(method: str) -> None:
    config = config_of(method)
    assert [*nodes(config)] == [*TRUNK, "select:subset", "publish:subset", "report"]
    assert "model:proxy" not in sources(config)


FEATURES = ["encode:a@v1", "encode:b@v3"]
ENDS = ["select:subset", "publish:subset", "report"]


@pytest.mark.parametrize(
    ("method", "stages"),
    [
        ("el2n", PROXY[:-1]),
        ("s2l", PROXY),
        ("density", PROXY[:-1]),
        ("coincide", PROXY),
        ("clip_score", FEATURES),
        ("self_sup", [*FEATURES, "cluster"]),
        ("ofa", [*FEATURES, "train_selector", "apply_selector"]),
    ],
)
def test_plan_has_the_stages_that_the_methods_signals_come_from(method: str, stages: list[str]) -> None:
    assert [*nodes(config_of(method))] == [*TRUNK, *stages, *ENDS]
    needed = {"model:proxy"} if "train_proxy" in stages else {"model:encoder"}
    assert {source for source in sources(config_of(method)) if source.startswith("model:")} == needed


def test_given_selector_stands_in_for_its_training() -> None:
    config = config_of("ofa_dpp", selector={"uri": "selectors/x"})
    assert [*nodes(config)] == [*TRUNK, *FEATURES, "apply_selector", *ENDS]
    assert nodes(config)["apply_selector"].inputs["selector"] == ("model:selector",)
    assert sources(config)["model:selector"] == "selectors/x"


@pytest.mark.parametrize(
    ("method", "extracted"),
    [
        ("xmas", ["alignment"]),
        ("el2n", ["el2n@last"]),
        ("highest_learnability", ["loss@first and last"]),
        ("d2_pruning", ["aum@last", "mean_state@last"]),
        ("density", ["alignment", "loss"]),
    ],
)
def test_extraction_computes_what_the_method_needs(method: str, extracted: list[str]) -> None:
    assert nodes(config_of(method))["extract:a@v1"].section.identity()["signals"] == extracted


def test_named_union_makes_one_extraction_of_several_methods() -> None:
    union = {"signals": ["alignment", "el2n@last", "loss@first and all"]}
    sections = {
        method: nodes(config_of(method, extract=union))["extract:a@v1"].section.identity()
        for method in ("xmas", "el2n", "s2l", "highest_learnability")
    }
    assert sections["xmas"]["signals"] == union["signals"]
    assert all(section == sections["xmas"] for section in sections.values())
    assert "extract:a@v1" not in nodes(config_of("random", extract=union))


def test_method_reads_its_clusters_and_the_parts_of_its_other_signals() -> None:
    read = {
        method: dict(nodes(config_of(method))["select:subset"].inputs)
        for method in ("xmas", "coincide", "self_sup", "ofa", "ofa_dpp", "density")
    }
    pool, extract, encode = {"pool": ("pool",)}, {"extract": tuple(PROXY[1:3])}, {"encode": tuple(FEATURES)}
    cluster, selector = {"cluster": ("cluster",)}, {"apply_selector": ("apply_selector",)}
    assert read == {
        "xmas": {**pool, **cluster},
        "coincide": {**pool, **cluster, **extract},
        "self_sup": {**pool, **cluster, **encode},
        "ofa": {**pool, **selector},
        "ofa_dpp": {**pool, **selector, **encode},
        "density": {**pool, **extract},
    }


def test_clusters_are_the_methods_unless_the_recipe_says_otherwise() -> None:
    own = nodes(config_of("coincide"))["cluster"].section.identity()
    assert {name: own[name] for name in ("signal", "num_clusters", "num_iterations", "spherical", "is_most")} == {
        "signal": "coincide", "num_clusters": 10_000, "num_iterations": 50, "spherical": True, "is_most": True
    }  # fmt: skip
    said = nodes(config_of("coincide", cluster={"num_clusters": 7, "spherical": False}))["cluster"].section.identity()
    assert (said["num_clusters"], said["num_iterations"]) == (7, 50)
    assert not {"spherical", "is_most"} & said.keys()


def test_later_kinds_of_clusters_and_unused_settings_leave_fingerprints_as_they_were() -> None:
    """The fields that the first version had, and no other: what was built is found again."""
    planned = nodes(config_of("xmas", cluster={"num_clusters": 40}, extract={"coincide_layers": [0]}))
    assert planned["cluster"].section.identity() == {
        "score": "sum", "num_clusters": 40, "num_iterations": 100, "max_points_per_centroid": 256, "seed": 1234
    }  # fmt: skip
    assert planned["extract:a@v1"].section.identity()["coincide_layers"] == [3, 7, 11, 15, 19]
    used = nodes(config_of("coincide", extract={"coincide_layers": [0], "alignment": {"top_k": 3}}))
    assert used["extract:a@v1"].section.identity()["coincide_layers"] == [0]
    assert used["extract:a@v1"].section.identity()["alignment"]["top_k"] == 5


def test_plan_of_a_comparison_trains_every_arm_with_every_seed() -> None:
    assert [*nodes(config_of("xmas", COMPARISON))] == [
        *["ingest:a@v1", "ingest:b@v3", "ingest:held@v1", "pool"],
        *PROXY,
        *under("select", ARMS),
        *under("publish", ARMS),
        *under("train_target", TRAINED),
        *under("evaluate", TRAINED),
        "report",
    ]


def test_full_reference_is_trained_once() -> None:
    planned = [*nodes(config_of("random", {**COMPARISON, "with_full": True}))]
    assert [node for node in planned if "full" in node] == [
        *["select:full", "publish:full", "train_target:full/0", "evaluate:full/0"]
    ]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_every_input_is_a_source_or_an_earlier_node(config: RunConfig) -> None:
    seen = set(sources(config))
    for node in plan(config):
        assert set(inputs(node)) <= seen, node.id
        assert node.id not in seen
        seen.add(node.id)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_everything_planned_leads_to_the_report(config: RunConfig) -> None:
    """Baselines too: no node is built for nothing, no source is resolved for nothing."""
    planned = nodes(config)
    needed, left = set(), ["report"]
    while left:
        item = left.pop()
        if item not in needed:
            needed.add(item)
            left += [] if is_source(item) else inputs(planned[item])
    released_or_trained_on = {node for node in planned if node.partition(":")[0] in {"select", "publish"}}
    assert needed | released_or_trained_on == planned.keys() | sources(config).keys()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_partitioned_stage_names_one_input_and_a_size(config: RunConfig) -> None:
    for node in plan(config):
        if node.spec.partitioned_by:
            assert len(node.inputs[node.spec.partitioned_by]) == 1
            assert node.section.identity()["partition_size"] >= 1


def test_held_out_data_enters_neither_pool_nor_proxy() -> None:
    planned = nodes(config_of("xmas", COMPARISON))
    readers = [node.id for node in planned.values() if "ingest:held@v1" in inputs(node)]
    assert readers == under("evaluate", TRAINED)


def test_arms_differ_in_method_seed_and_budget_only_where_they_must() -> None:
    planned = nodes(config_of("xmas", {**COMPARISON, "with_full": True}))
    identity = {node: planned[node].section.identity() for node in planned}
    assert (identity["select:random.1"]["method"], identity["select:random.1"]["seed"]) == ("random", 2)
    assert identity["select:random.1"]["text_only"] == identity["select:subset"]["text_only"]
    assert identity["publish:random.1"] == identity["publish:subset"] == {"budget": "10%"}
    assert identity["publish:full"] == {"budget": "100%"}
    for key in ("subset/1", "random.1/1"):
        assert identity[f"train_target:{key}"]["training"]["seed"] == 1
        assert identity[f"train_target:{key}"] == identity["train_target:subset/1"]


def test_budget_reaches_only_publish() -> None:
    """So another budget recomputes nothing before it, and no GPU work but the target's."""
    config = config_of("xmas", COMPARISON)
    other = config.model_copy(update={"publish": config.publish.model_copy(update={"budget": "77"})})
    changed = {
        node
        for node, before in nodes(config).items()
        if before.section.identity() != nodes(other)[node].section.identity()
    }
    assert changed == {*under("publish", ARMS)}


def test_images_are_looked_for_beside_the_data_unless_told_otherwise() -> None:
    config = config_of("random").model_copy(update={"image_roots": {"b": "images/coco"}})
    roots = {key: node.section.identity()["image_root"] for key, node in nodes(config).items() if "ingest" in key}
    assert roots == {"ingest:a@v1": "landing/a/v1", "ingest:b@v3": "images/coco"}


def test_sources_name_landed_versions_and_models() -> None:
    assert sources(config_of("xmas", COMPARISON)) == {
        "landing:a@v1": "a@v1",
        "landing:b@v3": "b@v3",
        "landing:held@v1": "held@v1",
        "model:proxy": "models/p",
        "model:target": "models/t",
    }


def test_gpu_is_used_where_the_section_asks_for_it() -> None:
    data = {"datasets": ["a@v1"], "proxy": {"model": "p", "training": {"hardware": {"device": "cuda"}}}}
    planned = nodes(validate_config(data, where="test"))
    assert [node.id for node in planned.values() if node.uses_gpu] == ["train_proxy"]


def test_stage_names_are_distinct_and_versions_start_at_one() -> None:
    assert len({spec.name for spec in STAGES}) == len(STAGES)
    assert all(spec.version >= 1 for spec in STAGES)


@pytest.mark.parametrize("spec", STAGES, ids=lambda spec: spec.name)
def test_stage_function_is_there(spec: Any) -> None:
    assert callable(load_entrypoint(spec.entrypoint))
    if spec.follow_up:
        assert callable(load_entrypoint(spec.follow_up))


@pytest.mark.parametrize("key", ["subset/0", "random.12/12", "full/0"])
def test_training_key_is_taken_apart(key: str) -> None:
    arm, seed = split_training_key(key)
    assert f"{arm}/{seed}" == key


def test_node_ids() -> None:
    assert node_id("pool") == "pool"
    assert node_id("extract", "demo@v1") == "extract:demo@v1"
