"""A method that is no part of the package: a class in somebody's own module, named "module:class"."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from tests.selection.pools import budgets_of, pool_for, rows_of_method
from tests.stages.workbench import Workbench, rows_of
from xmas_job.catalog.methods import find_method
from xmas_job.config import RunConfig, SelectConfig, validate_config
from xmas_job.errors import UsageError
from xmas_job.extraction.layout import absent_path, signal_path
from xmas_job.pipeline import plan
from xmas_job.recipe_files import load_config
from xmas_job.stages import select
from xmas_job.storage.output import Output
from xmas_job.storage.record import Artifact
from xmas_job.storage.schemas import ABSENT, POOL, signal_schema

SOURCE = '''
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from xmas_job.catalog.methods import MethodEntry, SignalNeed
from xmas_job.selection.contract import Ranking, Selection
from xmas_job.selection.strata import rank_by_score

@dataclass(frozen=True)
class Backwards:
    """The last uid first."""
    entry: ClassVar[MethodEntry] = MethodEntry("{name}:Backwards", "-", "the last uid", "nothing", nested=True)
    skip: int = 0

    def rank(self, pool, rng):
        order = np.arange(pool.uids.size)[::-1][self.skip:].copy()
        return Ranking(order, np.full(order.size, -1, dtype=np.int32), np.full(order.size, np.nan))

@dataclass(frozen=True)
class EveryOther:
    """Evenly spaced, so another budget chooses otherwise."""
    entry: ClassVar[MethodEntry] = MethodEntry("{name}:EveryOther", "-", "nothing", "nothing", nested=False, version=4)

    def select(self, pool, budget, rng):
        rows = np.arange(budget) * pool.uids.size // budget
        return Selection(rows, np.full(budget, -1, dtype=np.int32))

@dataclass(frozen=True)
class WithoutEntry:
    pass

@dataclass(frozen=True)
class HighestLoss:
    """The largest loss first: a signal of the proxy, asked for by its name."""
    entry: ClassVar[MethodEntry] = MethodEntry(
        "{name}:HighestLoss", "-", "the highest loss", "proxy and one pass", nested=True,
        signals=(SignalNeed("loss", "last"),))

    def rank(self, pool, rng):
        return rank_by_score(pool, -pool.signal("loss"), rng)

@dataclass(frozen=True)
class Nested:
    """Says that it ranks, and does not."""
    entry: ClassVar[MethodEntry] = MethodEntry("{name}:Nested", "-", "x", "nothing", nested=True)

    def select(self, pool, budget, rng):
        return None

@dataclass(frozen=True)
class Sloppy:
    """Ranks whatever it is told to."""
    entry: ClassVar[MethodEntry] = MethodEntry("{name}:Sloppy", "-", "x", "nothing", nested=True)
    how: str = ""

    def rank(self, pool, rng):
        order = {
            "twice": np.array([0, 1, 1]), "beyond": np.array([0, 6]), "negative": np.array([0, -1]),
            "floats": np.array([0.0, 1.0]), "list": [0, 1], "text": np.array([5]),
        }.get(self.how, np.array([0, 1]))
        size = 3 if self.how == "lengths" else len(order)
        ranking = Ranking(order, np.full(size, -1, dtype=np.int32), np.full(len(order), np.nan))
        return Selection(order, ranking.clusters) if self.how == "kind" else ranking

@dataclass(frozen=True)
class OneOff:
    """Chooses more than asked for, or less."""
    entry: ClassVar[MethodEntry] = MethodEntry("{name}:OneOff", "-", "x", "nothing", nested=False)
    by: int = 1

    def select(self, pool, budget, rng):
        rows = np.arange(budget + self.by)
        return Selection(rows, np.full(rows.size, -1, dtype=np.int32))

@dataclass(frozen=True)
class NeedsMore(HighestLoss):
    entry: ClassVar[MethodEntry] = MethodEntry(
        "{name}:NeedsMore", "-", "x", "proxy and one pass", nested=True,
        signals=(SignalNeed("curvature", "last"),))
'''


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"their_methods_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(SOURCE.replace("{name}", name))
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def config_with(method: str, budget: str = "50%") -> RunConfig:
    return validate_config(
        {
            "datasets": ["demo@v1"],
            "proxy": {"model": "m"},
            "select": {"method": method},
            "publish": {"budget": budget},
        },
        where="test",
    )


def test_it_keeps_the_contract_as_the_others_do(module: str) -> None:
    for name in (f"{module}:Backwards", f"{module}:EveryOther"):
        pool = pool_for(find_method(name), 60)
        for budget in budgets_of(pool):
            rows = rows_of_method(find_method(name), pool, budget)
            assert len(rows) == len(set(rows)) == budget


def test_it_is_planned_like_any_other(module: str) -> None:
    nodes = {node.id: node for node in plan(config_with(f"{module}:Backwards"))}
    assert "train_proxy" not in nodes  # its entry asks for no signal
    assert nodes["select:subset"].section.identity()["method"] == f"{module}:Backwards"


def test_the_signal_it_asks_for_is_extracted_and_handed_to_it(bench: Workbench, module: str) -> None:
    nodes = {node.id: node for node in plan(config_with(f"{module}:HighestLoss"))}
    assert nodes["extract:demo@v1"].section.identity()["signals"] == ["loss@last"]
    assert nodes["select:subset"].inputs == {"pool": ("pool",), "extract": ("extract:demo@v1",)}
    losses = {"a": 1.0, "b": 3.0, "c": 2.0, "d": 5.0, "f": 4.0}

    def fill(output: Output) -> None:
        rows = [{"uid": uid, "value": [v], "num_text_tokens": 1, "num_image_tokens": 1} for uid, v in losses.items()]
        output.table(signal_path(7, 0, "loss"), pa.Table.from_pylist(rows, signal_schema(1)), signal_schema(1))
        absent = [{"uid": "e", "reason": "no_answer_after_truncation"}]
        output.table(absent_path(0, "loss"), pa.Table.from_pylist(absent, ABSENT), ABSENT)

    extracted = bench.write("extract", fill)
    made = bench.run(select.run, SelectConfig(method=f"{module}:HighestLoss"), pool=make_pool(bench), extract=extracted)
    ranks = {row["uid"]: row["rank"] for row in rows_of(made, "ranking.parquet")}
    assert ranks == {"d": 1, "f": 2, "b": 3, "c": 4, "a": 5}
    assert made.record.metrics["num_absent"] == 1


def test_its_version_and_budget_enter_the_fingerprint(module: str) -> None:
    nodes = {node.id: node for node in plan(config_with(f"{module}:EveryOther", "40%"))}
    identity = nodes["select:subset"].section.identity()
    assert (identity["method_version"], identity["budget"]) == (4, "40%")
    nodes = {node.id: node for node in plan(config_with(f"{module}:Backwards", "40%"))}
    assert nodes["select:subset"].section.identity()["budget"] is None  # one ranking serves every budget


def test_it_ranks_a_pool_in_the_select_stage(bench: Workbench, module: str) -> None:
    pool = make_pool(bench)
    made = bench.run(select.run, SelectConfig(method=f"{module}:Backwards", params={"skip": 1}), pool=pool)
    ranks = {row["uid"]: row["rank"] for row in rows_of(made, "ranking.parquet")}
    assert ranks == {"e": 1, "d": 2, "c": 3, "b": 4, "a": 5}
    assert json.loads(made.read("method.json"))["method"] == f"{module}:Backwards"


def test_a_choice_that_depends_on_the_budget_is_all_that_is_ranked(bench: Workbench, module: str) -> None:
    pool = make_pool(bench)
    made = bench.run(select.run, SelectConfig(method=f"{module}:EveryOther", budget="50%"), pool=pool)
    assert {row["uid"]: row["rank"] for row in rows_of(made, "ranking.parquet")} == {"a": 1, "c": 2, "e": 3}
    assert made.record.metrics == {"num_eligible": 6, "num_ranked": 3, "num_absent": 0}


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("twice", "it chose 1 rows more than once"),
        ("beyond", "no row numbers of the pool, 0 to 5"),
        ("negative", "no row numbers of the pool"),
        ("floats", "no row numbers of the pool"),
        ("list", "no arrays of one length"),
        ("lengths", "no arrays of one length"),
        ("kind", "it returned no Ranking but Selection"),
        ("text", "text-only examples, which the policy excludes"),
    ],
)
def test_a_ranking_that_breaks_the_contract_is_refused_in_its_methods_name(
    bench: Workbench, module: str, how: str, says: str
) -> None:
    section = SelectConfig(method=f"{module}:Sloppy", params={"how": how}, text_only="exclude")
    with pytest.raises(UsageError, match=f"{module}:Sloppy' broke its contract: .*{says}"):
        bench.run(select.run, section, pool=make_pool(bench, text="f"))


@pytest.mark.parametrize("by", [-1, 1])
def test_a_choice_of_another_size_is_refused_in_its_methods_name(bench: Workbench, module: str, by: int) -> None:
    section = SelectConfig(method=f"{module}:OneOff", params={"by": by}, budget="50%")
    with pytest.raises(UsageError, match=f"OneOff' broke its contract: it chose {3 + by} rows for a budget of 3"):
        bench.run(select.run, section, pool=make_pool(bench))


def make_pool(bench: Workbench, text: str = "") -> Artifact:
    rows = [
        {"uid": uid, "source": "s", "modality": "text" if uid in text else "image", "dataset": "d@v1"}
        for uid in "abcdef"
    ]
    return bench.write("pool", lambda output: output.table("pool.parquet", pa.Table.from_pylist(rows, POOL), POOL))


@pytest.mark.parametrize(
    ("name", "says", "remedy"),
    [
        ("no_such_module_here:Class", "No module named 'no_such_module_here'", "PYTHONPATH"),
        ("{module}:Nobody", "no attribute 'Nobody'", "PYTHONPATH"),
        ("{module}:WithoutEntry", "does not say what it needs", "entry: ClassVar[MethodEntry]"),
        ("{module}:Nested", "says nested=True and has no rank()", "rank(pool, rng)"),
        ("{module}:NeedsMore", "signal 'curvature', which does not exist", "Signals are: alignment"),
        ("clip_score", "needs the signal 'clip_score', but the recipe has no dual encoder", "encoder.model"),
        ("ofa", "needs the signal 'clip', but the recipe has no dual encoder", "encoder.model"),
    ],
)
def test_what_cannot_be_served_is_refused_before_a_run(module: str, name: str, says: str, remedy: str) -> None:
    with pytest.raises(UsageError) as caught:
        config_with(name.replace("{module}", module))
    assert says in caught.value.message
    assert remedy in caught.value.remedy


def test_a_recipe_without_a_proxy_is_refused_alike() -> None:
    with pytest.raises(UsageError, match="needs the signal 'coincide', but the recipe has no proxy") as caught:
        load_config("demo", ["select.method=coincide", "proxy=null"])
    assert "proxy.model" in caught.value.remedy
