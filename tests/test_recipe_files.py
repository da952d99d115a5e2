"""A recipe that names a base holds only what differs."""

from __future__ import annotations

from pathlib import Path

import pytest

from xmas_job.config import ProxyConfig, RunConfig, TargetConfig
from xmas_job.errors import UsageError
from xmas_job.recipe_files import load_config, load_training, recipe_names, training_names


def test_values_of_a_base_stay_unless_they_are_changed(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("base: demo\ncluster: {score: values}\nproxy: {training: {seed: 7}}\n")
    demo, changed = load_config("demo"), load_config(str(mine))
    assert changed.cluster == demo.cluster.model_copy(update={"score": "values"})
    assert changed.proxy.training == demo.proxy.training.model_copy(update={"seed": 7})
    assert changed.publish == demo.publish


def test_recipe_that_is_its_own_base_is_refused(tmp_path: Path) -> None:
    one, other = tmp_path / "one.yaml", tmp_path / "other.yaml"
    one.write_text(f"base: {other}\n")
    other.write_text(f"base: {one}\n")
    with pytest.raises(UsageError, match=r"one\.yaml is its own base"):
        load_config(str(one))


def test_every_ablation_differs_from_the_paper_in_one_or_two_settings() -> None:
    paper = _flat(load_config("llava_665k"))
    names = [name for name in recipe_names() if name.startswith("ablations/")]
    assert len(names) >= 18
    seen = set()
    for name in names:
        ablation = _flat(load_config(name))
        changes = frozenset((key, str(value)) for key, value in ablation.items() if paper.get(key) != value)
        assert 1 <= len(changes) <= 2, name
        seen.add(changes)
    assert len(seen) == len(names)


def test_every_named_training_is_a_valid_section_and_full_ones_are_proxies() -> None:
    names = training_names()
    assert {"llava_1_5_7b_lora", "llava_1_5_13b_lora", "qwen2_5_vl_3b_lora"} <= set(names)
    assert {"tinyllava_2b_full", "tinyllava_0_5b_full"} <= set(names)
    for name in names:
        section = ProxyConfig if name.endswith("_full") else TargetConfig
        assert section.model_validate(load_training(name)).training.global_batch == 128, name
    assert not set(names) & set(recipe_names())


def test_a_section_names_its_training_and_holds_what_differs(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "base: demo\nproxy: {recipe: tinyllava_0_5b_full, model: models/mine}\n"
        "comparison: {target: {recipe: llava_1_5_7b_lora, lora: {rank: 8}}}\n"
    )
    config = load_config(str(mine), ["comparison.target.training.seed=3"])
    assert (config.proxy.model, config.proxy.training.per_device_batch) == ("models/mine", 16)  # demo's own stays
    assert config.proxy.training.grouping == "modality_length"
    target = config.comparison.target if config.comparison else None
    assert target is not None
    assert (target.lora.rank, target.lora.dropout, target.training.seed) == (8, 0.0, 3)
    assert target.training.grouping == "modality_length"
    mine.write_text("base: demo\nproxy: {recipe: tinylava}\n")
    with pytest.raises(UsageError, match="there is no training 'tinylava'"):
        load_config(str(mine))


def _flat(config: RunConfig) -> dict[str, object]:
    """Dotted key -> value."""

    def walk(prefix: str, value: object) -> dict[str, object]:
        if not isinstance(value, dict):
            return {prefix: value}
        return {key: leaf for name, part in value.items() for key, leaf in walk(f"{prefix}.{name}", part).items()}

    return walk("", config.model_dump(mode="json"))
