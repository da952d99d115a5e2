from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from xmas_job.config import RunConfig, SelectConfig, validate_config
from xmas_job.core.budget import parse_budget, resolve_budget
from xmas_job.errors import UsageError
from xmas_job.fingerprint import digest_of
from xmas_job.recipe_files import load_config, recipe_names
from xmas_job.sections import AlignmentConfig, Section

MODEL = {"model": "models/m"}
SMALLEST: dict[str, Any] = {"datasets": ["demo"], "proxy": MODEL}
COMPARED: dict[str, Any] = {**SMALLEST, "comparison": {"target": MODEL, "evaluate": {"dataset": "held_out"}}}


def validate(data: dict[str, Any]) -> RunConfig:
    return validate_config(data, where="recipe x")


def refusal(data: dict[str, Any]) -> UsageError:
    with pytest.raises(UsageError) as caught:
        validate(data)
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message
    return caught.value


# --- unknown keys and wrong values ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "key", "near"),
    [
        ({"clster": {}}, "clster", "cluster"),
        ({"cluster": {"num_cluster": 5}}, "cluster.num_cluster", "num_clusters"),
        ({"proxy": {**MODEL, "training": {"learningrate": 1}}}, "proxy.training.learningrate", "learning_rate"),
        (
            {"comparison": {**COMPARED["comparison"], "target": {**MODEL, "lora": {"rnk": 5}}}},
            "comparison.target.lora.rnk",
            "rank",
        ),
        ({"extract": {"hardware": {"devices": "cpu"}}}, "extract.hardware.devices", "device"),
    ],
)
def test_unknown_key_is_refused_with_the_nearest_known_one(data: dict[str, Any], key: str, near: str) -> None:
    error = refusal({**SMALLEST, **data})
    assert error.message == f"recipe x: unknown key {key!r}."
    assert error.remedy == f"Did you mean {near!r}?"


def test_unknown_key_like_no_other_is_refused_with_the_known_ones() -> None:
    assert refusal({**SMALLEST, "cluster": {"zzz": 1}}).remedy == (
        "Known keys there: max_points_per_centroid, num_clusters, num_iterations, score, seed, spherical."
    )


@pytest.mark.parametrize(
    ("section", "value", "says"),
    [
        ("cluster", {"num_clusters": 0}, "cluster.num_clusters: Input should be greater than or equal to 1"),
        ("select", {"method": "magic"}, "unknown method 'magic'; known: clip_score, coincide, "),
        ("select", {"text_only": "maybe"}, "select.text_only: Input should be"),
        ("channel", "../x", "channel: String should match"),
        ("datasets", "demo", "datasets: Input should be a valid tuple"),
        ("proxy", {}, "proxy.model: Field required"),
        ("proxy", {**MODEL, "training": {"learning_rate": float("nan")}}, "learning_rate: Input should be"),
        ("proxy", {**MODEL, "training": {"learning_rate": float("inf")}}, "learning_rate: Input should be"),
        ("proxy", {**MODEL, "training": {"example_weights": True}}, "proxy.training: example_weights are those of a"),
        ("select", {"params": {"x": float("nan")}}, "select.params.x"),
        ("image_roots", {"demo": "/data/coco"}, "image_roots: '/data/coco' is no key under landing/"),
        ("image_roots", {"demo": "../coco"}, "image_roots: '../coco' is no key under landing/"),
        ("image_roots", {"demo": "pictures"}, "image_roots: 'pictures' is no key under landing/"),
        ("image_roots", {"demo": "landings"}, "image_roots: 'landings' is no key under landing/"),
        ("image_roots", {"demo": "landing/../etc"}, "image_roots: 'landing/../etc' is no key under landing/"),
        ("image_roots", {"demo": "landing/pictures/"}, "image_roots: 'landing/pictures/' is no key under landing/"),
        ("image_roots", {"dem": "landing/pictures"}, "image_roots names 'dem', which is no dataset of this run"),
        ("image_roots", {"demo": ""}, "image_roots: '' is no key under landing/"),
    ],
)
def test_wrong_value_is_refused_with_its_place(section: str, value: Any, says: str) -> None:
    assert says in refusal({**SMALLEST, section: value}).message


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"datasets": []}, "datasets is empty"),
        ({"datasets": ["demo", "demo"]}, "names the same dataset twice"),
        ({"datasets": ["demo@v1", "demo@v1"]}, "names the same dataset twice"),
        ({"datasets": ["held_out"]}, "'held_out' is in the pool and held out at once"),
        ({"datasets": ["held_out@v1", "demo"]}, "'held_out' is in the pool and held out at once"),
    ],
)
def test_datasets_that_contradict_each_other_are_refused(data: dict[str, Any], says: str) -> None:
    assert says in refusal({**COMPARED, **data}).message


def test_two_versions_of_a_dataset_are_a_union() -> None:
    assert validate({**SMALLEST, "datasets": ["demo@v1", "demo@v2"]}).datasets == ("demo@v1", "demo@v2")


@pytest.mark.parametrize("name", ["", "../demo", "a/b", "demo@", "@v1", "demo@v1@v2", "demo@../v1", "/demo", "."])
def test_name_that_is_no_folder_of_landing_is_refused(name: str) -> None:
    assert "datasets.0: " in refusal({**SMALLEST, "datasets": [name]}).message
    held_out = {**COMPARED["comparison"], "evaluate": {"dataset": name}}
    assert "comparison.evaluate.dataset: " in refusal({**SMALLEST, "comparison": held_out}).message


def test_configuration_cannot_be_changed() -> None:
    config = validate(SMALLEST)
    with pytest.raises(ValueError, match="frozen"):
        config.cluster.num_clusters = 5  # type: ignore[misc]


# --- identity ---------------------------------------------------------------------------------------------------------


def test_fields_that_name_an_input_stay_out_of_the_identity() -> None:
    config, other = (
        validate(COMPARED),
        validate(
            {
                "datasets": ["demo"],
                "proxy": {"model": "/elsewhere/m"},
                "comparison": {"target": {"model": "/elsewhere/t"}, "evaluate": {"dataset": "held_out_2"}},
            }
        ),
    )
    assert config.comparison
    assert other.comparison
    assert config.proxy.identity() == other.proxy.identity()
    assert config.comparison.target.identity() == other.comparison.target.identity()
    assert config.comparison.evaluate.identity() == other.comparison.evaluate.identity()
    assert "model" not in config.proxy.identity()


def test_every_other_field_enters_the_identity() -> None:
    config = validate(COMPARED)
    for section in _sections(config):
        derived = {"method_version"} if isinstance(section, SelectConfig) else set()
        assert section.identity().keys() == (type(section).model_fields.keys() - section.naming) | derived
        digest_of(section.identity())


def test_device_and_precision_are_part_of_the_identity() -> None:
    config = validate(SMALLEST)
    on_gpu = validate({**SMALLEST, "extract": {"hardware": {"device": "cuda"}}})
    assert config.extract.identity() != on_gpu.extract.identity()


def _sections(value: BaseModel) -> Iterator[Section]:
    for name in type(value).model_fields:
        inner = getattr(value, name)
        if isinstance(inner, Section):
            yield inner
            yield from _sections(inner)


def test_naming_fields_exist() -> None:
    kinds = {type(section) for section in _sections(validate(COMPARED))}
    for kind in kinds:
        assert kind.naming <= kind.model_fields.keys()


# --- budgets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "num_eligible", "count"),
    [
        ("15%", 1000, 150),
        ("15%", 999, 149),
        ("0.15", 999, 149),
        (".5", 7, 3),
        ("7.5%", 1000, 75),
        ("0.1%", 10, 1),
        ("0.001", 10, 1),
        ("300", 300, 300),
        ("1", 300, 1),
        ("100%", 301, 301),
        ("29%", 100, 29),
        ("0.29", 100, 29),
        ("0.57", 100, 57),
    ],
)
def test_budget_comes_to_a_whole_number_of_examples(budget: str, num_eligible: int, count: int) -> None:
    """The floor of the exact share, at least 1. In floats, 0.29 * 100 is 28.999999999999996."""
    assert resolve_budget(budget, num_eligible) == count


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        ("0", "selects nothing"),
        ("0%", "selects nothing"),
        ("0.0", "selects nothing"),
        ("101%", "above the pool"),
        ("100.1%", "above the pool"),
        ("1.5", "no whole number of examples; write a share as a percentage"),
        ("1.0", "no whole number of examples; write a share as a percentage"),
        ("abc", "is not a percentage, a fraction or a count"),
        ("-3", "is not a percentage, a fraction or a count"),
        ("", "is not a percentage, a fraction or a count"),
        ("15 %", "is not a percentage, a fraction or a count"),
        ("1e3", "is not a percentage, a fraction or a count"),
        ("nan", "is not a percentage, a fraction or a count"),
        ("%", "is not a percentage, a fraction or a count"),
        ("15%%", "is not a percentage, a fraction or a count"),
        ("1,000", "is not a percentage, a fraction or a count"),
    ],
)
def test_bad_budget_is_refused(budget: str, says: str) -> None:
    with pytest.raises(ValueError, match="budget"):
        parse_budget(budget)
    error = refusal({**SMALLEST, "publish": {"budget": budget}})
    assert error.message.startswith("recipe x: publish.budget: budget ")
    assert says in error.message


@pytest.mark.parametrize("budget", [None, True, [15], {"share": 0.15}])
def test_budget_of_another_type_is_refused(budget: Any) -> None:
    assert "budget" in refusal({**SMALLEST, "publish": {"budget": budget}}).message


@pytest.mark.parametrize(("written", "kept"), [(0.15, "0.15"), (300, "300"), (" 15% ", "15%")])
def test_budget_may_be_a_number_in_the_recipe(written: Any, kept: str) -> None:
    assert validate({**SMALLEST, "publish": {"budget": written}}).publish.budget == kept


def test_budget_above_the_pool_is_refused() -> None:
    assert resolve_budget("300", 300) == 300
    with pytest.raises(UsageError, match="budget 301 is above the pool: 300 examples are eligible") as caught:
        resolve_budget("301", 300)
    assert "at most 300" in caught.value.remedy


# --- recipes and overrides --------------------------------------------------------------------------------------------


def test_recipes_are_shipped() -> None:
    assert "demo" in recipe_names()


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipe_loads(name: str) -> None:
    assert isinstance(load_config(name), RunConfig)


def test_unknown_recipe_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="there is no recipe 'dmo'") as caught:
        load_config("dmo")
    for name in recipe_names():
        assert name in caught.value.remedy


def test_recipe_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(COMPARED))
    assert load_config(str(path)) == validate(COMPARED)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"datasets: [demo", "is not YAML"),
        (b"\x80\x81", "is not YAML"),
        (b"a: b: c", "is not YAML"),
        (b"- demo", "is no mapping of sections"),
        (b"", "is no mapping of sections"),
        (b"datasets: [demo]\nproxy: {model: m}\nclster: {}", "unknown key 'clster'"),
    ],
)
def test_bad_recipe_is_refused_in_one_line(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_bytes(data)
    with pytest.raises(UsageError) as caught:
        load_config(str(path))
    assert says in caught.value.message
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message


def test_overrides_are_typed_and_the_last_one_counts() -> None:
    overrides = [
        "publish.budget=10%",
        "cluster.num_clusters=50",
        "cluster.num_clusters=60",
        "datasets=[demo@v1]",
        "comparison=null",
        "select.params={within_cluster: random}",
        "image_roots.demo=landing/elsewhere",
    ]
    config = load_config("demo", overrides)
    assert config.publish.budget == "10%"
    assert config.cluster.num_clusters == 60
    assert config.datasets == ("demo@v1",)
    assert config.comparison is None
    assert config.select.params == {"within_cluster": "random"}
    assert config.image_roots == {"demo": "landing/elsewhere"}


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("cluster.num_clusters", "is not of the form section.key=value"),
        ("=5", "is not of the form section.key=value"),
        ("cluster..x=5", "is not of the form section.key=value"),
        ("channel.x=5", "'channel' is a value, not a section"),
        ("clster.num_clusters=5", "unknown key 'clster'"),
        ("cluster.num_clusters=many", "cluster.num_clusters: Input should be a valid integer"),
        ("cluster.num_clusters=[5", "is not YAML"),
    ],
)
def test_bad_override_is_refused(override: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_config("demo", ["channel=nightly", override])
    assert says in caught.value.message
    assert "\n" not in caught.value.message


def test_every_setting_has_bounds_or_a_description() -> None:
    """A number without a lower bound accepts nonsense; only seeds may be any number."""
    for section in {type(section) for section in _sections(validate(COMPARED))}:
        for name, field in section.model_fields.items():
            numbers = {int, float} & {field.annotation, *get_args(field.annotation)}
            if numbers and name != "seed":
                assert field.metadata, f"{section.__name__}.{name} takes any number"


@pytest.mark.parametrize("other", [{"block": "full"}, {"aggregation": "concat_vision"}])
def test_leading_vector_of_other_columns_than_image_tokens_is_refused(other: dict[str, str]) -> None:
    data = {**SMALLEST, "cluster": {"score": "values"}}
    validate({**data, "extract": {"alignment": {"score": "leading_vector", "aggregation": "concat_text"}}})
    found = refusal({**data, "extract": {"alignment": {"score": "leading_vector", **other}}})
    assert "leading_vector has an entry an image token" in found.message


def test_an_empty_list_of_layers_is_refused() -> None:
    assert "extract.alignment.layers" in refusal({**SMALLEST, "extract": {"alignment": {"layers": []}}}).message
    assert AlignmentConfig(layers=(0,)).layers == (0,)
