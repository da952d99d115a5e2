"""Every method of the catalogue from landed data to a manifest that holds, on artifacts that they share.

In one process: what is shown here is the wiring. The command line and its processes are test_line's.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.line import RECIPE, World
from tests.s3_servers import S3Server
from xmas_job.catalog.methods import METHODS, SignalNeed
from xmas_job.catalog.needs import needs_of, united, written
from xmas_job.catalog.signals import SIGNALS
from xmas_job.commands.plan import plan_run
from xmas_job.commands.recompute import recompute_selection
from xmas_job.commands.resolve import resolve_run
from xmas_job.commands.verify import verify_selection
from xmas_job.config import RunConfig, validate_config
from xmas_job.demo.encoder import write_encoder
from xmas_job.demo.pool import write_pool
from xmas_job.environment import Environment
from xmas_job.errors import UsageError
from xmas_job.runner import Runner
from xmas_job.storage.manifest import parse_manifest
from xmas_job.storage.roots import open_store
from xmas_job.storage.store import Store

METHODS_OF_EACH_SOURCE = sorted(
    {
        tuple(sorted({SIGNALS[need.signal].model for need in needs_of(entry)})): name for name, entry in METHODS.items()
    }.values()
)
"""One method for each set of models that signals come from, found in the catalogue."""


def proxy_signals() -> tuple[str, ...]:
    """What one extraction has to hold to serve all methods."""
    needs: list[SignalNeed] = [need for entry in METHODS.values() for need in needs_of(entry)]
    return written(united(need for need in needs if SIGNALS[need.signal].stage == "extract"))


def config_of(method: str, **changes: Any) -> RunConfig:
    data = {
        **RECIPE,
        "extract": {**RECIPE["extract"], "signals": proxy_signals(), "coincide_layers": [0, 2]},
        "encoder": {"model": "models/demo-clip", "partition_size": 48},
        "selector": {"num_epochs": 3},
        "select": {"method": method},
        "channel": method.replace("_", "-"),
    }
    return validate_config({**data, **changes}, where="test")


@dataclass(frozen=True)
class Line:
    """A store in which the demo has landed."""

    store: Store
    environment: Environment

    def run(self, config: RunConfig) -> Runner:
        """Every stage, in the plan's order; what is there is found."""
        runner = Runner(self.store, self.environment, resolve_run(config, self.store, f"run-{config.channel}"))
        for node in runner.run.nodes:
            runner.run_stage(node)
        return runner

    def published(self, runner: Runner) -> str:
        """The selection, proved as `xmas-job verify` does."""
        artifact = runner.find("publish:subset")
        assert artifact is not None
        selection = str(artifact.record.metrics["selection_id"])
        verify_selection(self.environment, selection)
        return selection


@pytest.fixture(scope="module")
def world(landed: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """With a dual encoder beside the demo's other models."""
    world = landed.copy(tmp_path_factory.mktemp("methods") / "world")
    write_encoder(world.store / "models/demo-clip", num_steps=3)
    return world


@pytest.fixture(scope="module")
def line(world: World) -> Line:
    environment = Environment(store_root=str(world.store), scratch=world.folder / "scratch", log_format="json")
    return Line(open_store(environment.store_root), environment)


@pytest.mark.parametrize("method", METHODS)
def test_method_runs_from_landing_to_a_manifest_that_holds(line: Line, method: str) -> None:
    runner = line.run(config_of(method))
    folder = f"selections/{line.published(runner)}"
    manifest = parse_manifest(line.store.read(f"{folder}/manifest.json"), where=method)
    assert manifest.method.name == method
    num_pool = manifest.snapshot.num_examples
    assert manifest.resolved.num_examples == num_pool * 20 // 100
    report = json.loads(line.store.read(f"runs/run-{method.replace('_', '-')}/report/report.json"))
    assert report["sizes"]["num_selected"] == manifest.resolved.num_examples
    # Of a choice for one budget no other budget is told, and its clusters are those of the pool.
    assert bool(report["other_budgets"]) == METHODS[method].nested
    if METHODS[method].clustering:
        num_members = sum(row["num_members"] for row in report["clusters"])
        assert num_members > 2 * sum(row["num_selected"] for row in report["clusters"])
    clustering = METHODS[method].clustering
    has_curves = clustering is not None and not SIGNALS[clustering.signal].is_vector
    curves = report["trajectories"]
    assert (curves and curves["signal"]) == (clustering.signal if clustering and has_curves else None)
    models = {SIGNALS[need.signal].model for need in needs_of(METHODS[method])}
    planned = {node.spec.name for node in runner.run.nodes.values()}
    assert ("train_proxy" in planned) == ("extract" in planned) == ("proxy" in models)
    assert ("encode" in planned) == bool(models & {"dual encoder", "selector"})
    for stage in ("train_proxy", "extract", "encode"):  # shared by all methods that came before
        assert len(list(line.store.folders(f"artifacts/{stage}"))) <= 1
    assert ("train_selector" in planned) == ("apply_selector" in planned) == ("selector" in models)


@pytest.mark.parametrize("method", METHODS_OF_EACH_SOURCE)
def test_selection_of_each_signal_source_is_derived_again(line: Line, method: str) -> None:
    found = recompute_selection(line.environment, line.published(line.run(config_of(method))))
    assert {"pool", "select:subset", "publish:subset"} <= set(found["recomputed"])


# --- a selector that travels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ofa", "ofa_dpp"])
def test_selector_of_one_pool_selects_from_another_by_its_uri(
    line: Line, world: World, tmp_path: Path, method: str
) -> None:
    trained = line.run(config_of(method)).find("train_selector")
    assert trained is not None
    uri = f"{line.store.uri}/selectors/{trained.record.digest[:32]}"
    other = World(tmp_path / "other")
    shutil.copytree(world.store / "models/demo-clip", other.store / "models/our-clip")
    folder = other.store / "landing/other/v1"
    folder.mkdir(parents=True)
    write_pool(folder, num_examples=90, seed=7)
    (folder / "_SUCCESS").touch()
    environment = Environment(store_root=str(other.store), scratch=other.folder / "scratch", log_format="json")
    there = Line(open_store(environment.store_root), environment)
    config = config_of(
        method, datasets=["other"], proxy=None, encoder={"model": "models/our-clip"}, selector={"uri": uri}
    )
    runner = there.run(config)
    assert {node.partition(":")[0] for node in runner.run.nodes} == {
        "ingest", "pool", "encode", "apply_selector", "select", "publish", "report"
    }  # fmt: skip
    selection = there.published(runner)
    applied = runner.find("apply_selector")
    assert applied is not None
    assert applied.record.metrics["num_clusters"] == trained.record.metrics["num_clusters"]
    shutil.rmtree(there.environment.scratch)
    copied = shutil.copytree(uri.removeprefix("file://"), tmp_path / "selector")
    again = there.run(config.model_copy(update={"selector": config.selector.model_copy(update={"uri": str(copied)})}))
    assert there.published(again) == selection


def test_selector_of_another_encoder_is_refused_when_the_run_is_planned(
    line: Line, world: World, tmp_path: Path
) -> None:
    trained = line.run(config_of("ofa")).find("train_selector")
    assert trained is not None
    write_encoder(tmp_path / "clip", seed=1, num_steps=1)
    config = config_of(
        "ofa",
        encoder={"model": str(tmp_path / "clip")},
        selector={"uri": f"selectors/{trained.record.digest[:32]}"},
    )
    with pytest.raises(UsageError, match="was trained on features of the encoder"):
        plan_run(line.environment, config)


# --- what cannot be -------------------------------------------------------------------------------------------------


def test_pool_without_pictures_is_refused_by_plan_and_run(world: World, tmp_path: Path) -> None:
    texts = World(tmp_path / "texts")
    folder = texts.store / "landing/demo/v1"
    folder.mkdir(parents=True)
    turns = [{"from": "human", "value": "What is two?"}, {"from": "gpt", "value": "2"}]
    rows = [
        {"id": str(number), "conversations": [{**turns[0], "value": f"And {number}?"}, turns[1]]} for number in range(9)
    ]
    (folder / "data.json").write_text(json.dumps(rows))
    (folder / "_SUCCESS").touch()
    shutil.copytree(world.store / "models", texts.store / "models")
    environment = Environment(store_root=str(texts.store), scratch=texts.folder / "scratch", log_format="json")
    line = Line(open_store(environment.store_root), environment)
    with pytest.raises(UsageError, match="needs clip_score, but none of 9 examples has an image"):
        line.run(config_of("clip_score"))
    with pytest.raises(UsageError, match="needs clip_score, but none of 9 examples has an image") as caught:
        plan_run(environment, config_of("clip_score"))
    assert "Land examples with images" in caught.value.remedy


# --- on S3 ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bucket(world: World, moto: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    scratch = tmp_path_factory.mktemp("methods-on-s3")
    root = moto.new_root()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**moto.variables, "XMAS_SCRATCH": str(scratch)}.items():
            patch.setenv(name, value)
        store = open_store(root)
        for folder in ("landing", "models"):
            for path in sorted(found for found in (world.store / folder).rglob("*") if found.is_file()):
                store.put(path.relative_to(world.store).as_posix(), path.read_bytes())
        yield Line(store, Environment(store_root=root, scratch=scratch, log_format="json"))


@pytest.mark.parametrize("method", METHODS)
def test_method_publishes_the_same_on_s3(line: Line, bucket: Line, method: str) -> None:
    in_a_folder = line.published(line.run(config_of(method)))
    assert bucket.published(bucket.run(config_of(method))) == in_a_folder
