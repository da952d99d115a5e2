"""What every method in the catalogue must keep; a new method is found by itself."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tests.selection.pools import budgets_of, columns_for, num_eligible, pool_for, rows_of_method
from xmas_job.catalog.methods import METHODS, MethodEntry
from xmas_job.catalog.signals import SIGNALS
from xmas_job.config import SelectConfig
from xmas_job.entrypoints import load_entrypoint
from xmas_job.errors import BadDataError, UsageError
from xmas_job.selection.contract import CandidatePool, TextOnlyPolicy

POLICIES: tuple[TextOnlyPolicy, ...] = ("cluster", "proportional", "exclude")
DRAWN = {"random", "s2l", "ofa_dpp", "density", "hierarchical"}
"""Methods that draw among images. The others draw text-only examples only."""

pytestmark = pytest.mark.parametrize("name", sorted(METHODS))
policies = pytest.mark.parametrize("text_only", POLICIES)


def entry_of(name: str) -> MethodEntry:
    return METHODS[name]


def assert_exact(entry: MethodEntry, pool: CandidatePool) -> None:
    """At every budget exactly that many eligible rows, none twice; at the whole pool all of them."""
    eligible = set(np.flatnonzero(pool.has_image) if pool.text_only == "exclude" else range(pool.uids.size))
    for budget in budgets_of(pool):
        rows = rows_of_method(entry, pool, budget)
        assert len(rows) == len(set(rows)) == budget
        assert set(rows) <= eligible


def test_is_a_frozen_dataclass_with_defaults(name: str) -> None:
    method: Any = load_entrypoint(entry_of(name).entrypoint)()
    assert bool(dataclasses.is_dataclass(method))
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.anything = 1


def test_config_takes_its_name(name: str) -> None:
    assert SelectConfig(method=name).method == name


def test_signals_it_needs_are_in_the_catalogue(name: str) -> None:
    assert set(entry_of(name).signal_names) <= SIGNALS.keys()


def test_nested_methods_rank_and_others_select(name: str) -> None:
    kind = load_entrypoint(entry_of(name).entrypoint)
    assert hasattr(kind, "rank") == entry_of(name).nested
    assert hasattr(kind, "select") != entry_of(name).nested


@policies
@pytest.mark.parametrize("num_examples", [2, 17, 300])
def test_budget_is_exact_and_nothing_is_chosen_twice(name: str, num_examples: int, text_only: TextOnlyPolicy) -> None:
    assert_exact(entry_of(name), pool_for(entry_of(name), num_examples, text_only=text_only))


@policies
@pytest.mark.parametrize("share_text", [0.0, 1.0])
def test_one_example_of_either_kind(name: str, share_text: float, text_only: TextOnlyPolicy) -> None:
    pool = pool_for(entry_of(name), 1, text_only=text_only, share_text=share_text)
    assert num_eligible(pool) == (0 if share_text == 1 and text_only == "exclude" else 1)
    assert_exact(entry_of(name), pool)


@policies
@pytest.mark.parametrize("share_text", [0.0, 1.0])
def test_pool_of_one_kind_only(name: str, share_text: float, text_only: TextOnlyPolicy) -> None:
    assert_exact(entry_of(name), pool_for(entry_of(name), 50, text_only=text_only, share_text=share_text))


@policies
def test_one_cluster(name: str, text_only: TextOnlyPolicy) -> None:
    assert_exact(entry_of(name), pool_for(entry_of(name), 40, text_only=text_only, num_clusters=1))


@policies
def test_constant_scores_and_features(name: str, text_only: TextOnlyPolicy) -> None:
    assert_exact(entry_of(name), pool_for(entry_of(name), 60, text_only=text_only, constant=True))


def test_ties_are_broken_by_uid(name: str) -> None:
    """Equal scores and one cluster leave the uid; a method that draws breaks no tie."""
    pool = pool_for(entry_of(name), 60, share_text=0, constant=True, num_clusters=1)
    if name in DRAWN:
        assert rows_of_method(entry_of(name), pool, 60) != rows_of_method(entry_of(name), pool, 60, seed=1)
    elif name == "middle_perplexity":
        assert rows_of_method(entry_of(name), pool, 5) == [30, 29, 31, 28, 32]
    elif (
        name == "d2_pruning" or name == "semdedup"
    ):  # each pick silences others: of those that stay equal the smallest uid is next
        assert rows_of_method(entry_of(name), pool, 1) == [0]
    elif name == "coincide":
        assert rows_of_method(entry_of(name), pool, 9) == list(range(9))
    else:
        assert rows_of_method(entry_of(name), pool, 60) == list(range(60))


@policies
def test_same_seed_same_choice_and_another_seed_another(name: str, text_only: TextOnlyPolicy) -> None:
    pool = pool_for(entry_of(name), 200, text_only=text_only)
    assert rows_of_method(entry_of(name), pool, 90, 1) == rows_of_method(entry_of(name), pool, 90, 1)
    draws = name != "full" and (name in DRAWN or text_only != "exclude")
    assert (rows_of_method(entry_of(name), pool, 90, 1) == rows_of_method(entry_of(name), pool, 90, 2)) != draws


@policies
def test_nested_as_declared(name: str, text_only: TextOnlyPolicy) -> None:
    """A ranking is nested by its type. Of the others, some pool shows that no ranking would do."""
    if name == "coincide":
        return  # its subsets are nested, but only a run at each budget says how: see test_coincide
    if entry_of(name).nested:
        pool = pool_for(entry_of(name), 100, text_only=text_only)
        ranking = load_entrypoint(entry_of(name).entrypoint)().rank(pool, np.random.default_rng(0))
        columns = (ranking.order, ranking.clusters, ranking.instability)
        assert [column.dtype.name for column in columns] == ["int64", "int32", "float64"]
        assert {column.shape for column in columns} == {(num_eligible(pool),)}
    else:
        pools = [pool_for(entry_of(name), size, text_only="exclude", num_clusters=9) for size in range(20, 60)]
        assert any(
            not set(rows_of_method(entry_of(name), pool, budget))
            <= set(rows_of_method(entry_of(name), pool, budget + 1))
            for pool in pools
            for budget in range(1, num_eligible(pool) // 2)
        )


@policies
def test_rows_in_another_order_give_the_same_uids(name: str, text_only: TextOnlyPolicy) -> None:
    columns = columns_for(entry_of(name), 120, text_only=text_only)
    pool = CandidatePool.sorted(**columns)
    shuffle = np.random.default_rng(8).permutation(120)
    images = (np.cumsum(columns["has_image"]) - 1)[shuffle[columns["has_image"][shuffle]]]
    shuffled = {
        **columns,
        **{key: columns[key][shuffle] for key in ("uids", "has_image", "sources")},
        "signals": {key: values[images] for key, values in columns["signals"].items()},
        "cluster_ids": None if columns["cluster_ids"] is None else columns["cluster_ids"][images],
    }
    again = CandidatePool.sorted(**shuffled)
    assert again.uids.tolist() == pool.uids.tolist()
    assert rows_of_method(entry_of(name), again, 50) == rows_of_method(entry_of(name), pool, 50)
    with pytest.raises(BadDataError, match="not sorted"):
        CandidatePool(**shuffled)


@policies
def test_text_only_examples_by_policy(name: str, text_only: TextOnlyPolicy) -> None:
    """None when excluded; their share when proportional."""
    pool = pool_for(entry_of(name), 200, text_only=text_only)
    num_text = (~pool.has_image).sum()
    rows = rows_of_method(entry_of(name), pool, 80)
    chosen_text = int((~pool.has_image[rows]).sum())
    if text_only == "exclude":
        assert chosen_text == 0
    elif text_only == "proportional" and name not in {"random", "full"}:
        assert chosen_text == 80 * num_text // 200
    else:
        assert chosen_text > 0


def test_policy_changes_no_order_of_the_images(name: str) -> None:
    """Full and random take text as it falls; where text-only is one more cluster, clusters draw for themselves."""
    if name in {"full", "random"}:
        return
    orders = []
    for text_only in ("proportional", "exclude"):
        pool = pool_for(entry_of(name), 120, text_only=text_only)
        num_images = int(pool.has_image.sum())
        # At all images' budget in either pool the same images are chosen from, in the same order.
        rows = rows_of_method(entry_of(name), pool, num_eligible(pool))
        images = [row for row in rows if pool.has_image[row]]
        assert len(images) == num_images
        orders.append(images)
    assert orders[0] == orders[1]


def test_absent_signal_is_refused_by_name(name: str) -> None:
    entry = entry_of(name)
    if not entry.signal_names:
        return
    columns = columns_for(entry, 40)
    for missing in (need.signal for need in entry.signals):
        others = {key: values for key, values in columns["signals"].items() if key != missing}
        with pytest.raises(UsageError, match=missing):
            rows_of_method(entry, CandidatePool(**{**columns, "signals": others}), 10)
    if entry.clustering:
        with pytest.raises(UsageError, match="clusters"):
            rows_of_method(entry, CandidatePool(**{**columns, "cluster_ids": None}), 10)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_value_that_is_not_finite_is_refused(name: str, bad: float) -> None:
    """Absent examples are left out with a reason; NaN never stands for one."""
    entry = entry_of(name)
    for need in entry.signals:
        columns = columns_for(entry, 40)
        # The k-DPP reads its candidates only.
        columns["signals"][need.signal][slice(None) if name == "ofa_dpp" else 3] = bad
        with pytest.raises(BadDataError, match="not finite"):
            rows_of_method(entry, CandidatePool(**columns), 10)


def test_columns_of_another_length_are_refused(name: str) -> None:
    columns = columns_for(entry_of(name), 40)
    for key, values in columns["signals"].items():
        with pytest.raises(BadDataError, match="other lengths"):
            CandidatePool(**{**columns, "signals": {**columns["signals"], key: values[:-1]}})
    with pytest.raises(BadDataError, match="other lengths"):
        CandidatePool(**{**columns, "cluster_ids": np.zeros(1, dtype=np.int32)})


def test_global_random_state_is_neither_read_nor_moved(name: str) -> None:
    pool = pool_for(entry_of(name), 100)
    before = repr(np.random.get_state(legacy=False))  # noqa: NPY002 (the state that must stay)
    first = rows_of_method(entry_of(name), pool, 40)
    assert repr(np.random.get_state(legacy=False)) == before  # noqa: NPY002
    np.random.seed(99)  # noqa: NPY002
    assert rows_of_method(entry_of(name), pool, 40) == first


@policies
def test_inputs_are_left_as_they_were(name: str, text_only: TextOnlyPolicy) -> None:
    """Every array is read-only: a method that writes into one fails."""
    columns = columns_for(entry_of(name), 100, text_only=text_only)
    arrays = [*columns["signals"].values(), *(value for value in columns.values() if isinstance(value, np.ndarray))]
    for array in arrays:
        array.setflags(write=False)
    rows_of_method(entry_of(name), CandidatePool(**columns), 40)


def test_other_uids_in_the_same_order_give_the_same_rows(name: str) -> None:
    pool = pool_for(entry_of(name), 150)
    renamed = dataclasses.replace(pool, uids=np.char.add("z", pool.uids))
    assert rows_of_method(entry_of(name), renamed, 60) == rows_of_method(entry_of(name), pool, 60)


def test_cluster_numbers_are_names_only(name: str) -> None:
    pool = pool_for(entry_of(name), 150)
    if pool.cluster_ids is None or pool.centroids is None:
        return
    last = len(pool.centroids) - 1
    renumbered = dataclasses.replace(
        pool, cluster_ids=(last - pool.cluster_ids).astype(np.int32), centroids=pool.centroids[::-1].copy()
    )
    assert rows_of_method(entry_of(name), renumbered, 60) == rows_of_method(entry_of(name), pool, 60)
