"""What every method in the catalogue must keep; a new method is found by itself."""

from __future__ import annotations

import dataclasses
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest

from xmas_job.catalog.methods import METHODS
from xmas_job.config import SelectConfig
from xmas_job.entrypoints import load_entrypoint
from xmas_job.selection.contract import CandidatePool, Ranking, SelectionMethod, TextOnlyPolicy

POLICIES: tuple[TextOnlyPolicy, ...] = ("cluster", "proportional", "exclude")
DRAWS_NOTHING = {"full": POLICIES, "xmas": ("exclude",)}
"""Method -> policies under which the seed changes nothing. XMAS draws text-only examples only."""
NUM_CHECKPOINTS = 4

pytestmark = pytest.mark.parametrize("name", sorted(METHODS))
policies = pytest.mark.parametrize("text_only", POLICIES)


def make_pool(
    name: str,
    num_examples: int,
    *,
    text_only: TextOnlyPolicy = "proportional",
    share_text: float = 0.25,
    num_clusters: int = 7,
    constant: bool = False,
) -> CandidatePool:
    """A pool with what the catalogue says the method needs; cluster sizes are very unequal."""
    rng = np.random.default_rng(5)
    uids = np.char.mod("%032x", np.sort(rng.choice(2**40, num_examples, replace=False)))
    has_image = rng.random(num_examples) >= share_text
    num_images = int(has_image.sum())
    signal = METHODS[name].clustered_signal
    if signal is None:
        return CandidatePool(uids, has_image, {}, None, text_only)
    values = rng.random((num_images, NUM_CHECKPOINTS)).astype(np.float32)
    clusters = np.minimum(rng.geometric(0.4, num_images) - 1, num_clusters - 1).astype(np.int32)
    signals = {signal: np.ones_like(values) if constant else values}
    return CandidatePool(uids, has_image, signals, clusters, text_only)


def rank(name: str, pool: CandidatePool, seed: int = 0) -> Ranking:
    method: SelectionMethod = load_entrypoint(METHODS[name].entrypoint)()
    return method.rank(pool, np.random.default_rng(seed))


def eligible(pool: CandidatePool) -> list[int]:
    rows = np.flatnonzero(pool.has_image) if pool.text_only == "exclude" else np.arange(pool.uids.size)
    return [int(row) for row in rows]


def assert_covers(pool: CandidatePool, ranking: Ranking) -> None:
    """Every eligible row once, no other, and the columns of the contract beside them."""
    assert sorted(ranking.order.tolist()) == eligible(pool)
    columns = (ranking.order, ranking.clusters, ranking.instability)
    assert [column.dtype.name for column in columns] == ["int64", "int32", "float64"]
    assert ranking.clusters.shape == ranking.instability.shape == ranking.order.shape
    if pool.cluster_ids is not None:
        expected = np.full(pool.uids.size, -1)
        expected[pool.has_image] = pool.cluster_ids
        is_image = pool.has_image[ranking.order]
        assert np.array_equal(ranking.clusters[is_image], expected[ranking.order][is_image])


def same(a: Ranking, b: Ranking) -> bool:
    return all(
        np.array_equal(getattr(a, field.name), getattr(b, field.name), equal_nan=field.name == "instability")
        for field in dataclasses.fields(Ranking)
    )


def test_is_a_frozen_dataclass_with_defaults(name: str) -> None:
    method: Any = load_entrypoint(METHODS[name].entrypoint)()
    assert bool(dataclasses.is_dataclass(method))
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.anything = 1


def test_config_takes_its_name(name: str) -> None:
    assert SelectConfig(method=name).method == name


def test_nested_methods_rank_and_others_select(name: str) -> None:
    kind = load_entrypoint(METHODS[name].entrypoint)
    assert hasattr(kind, "rank") == METHODS[name].nested
    assert hasattr(kind, "select") != METHODS[name].nested


@policies
@pytest.mark.parametrize("num_examples", [2, 17, 400])
def test_covers_the_eligible_rows_exactly(name: str, num_examples: int, text_only: TextOnlyPolicy) -> None:
    pool = make_pool(name, num_examples, text_only=text_only)
    assert_covers(pool, rank(name, pool))


@policies
@pytest.mark.parametrize("share_text", [0.0, 1.0])
def test_one_example(name: str, share_text: float, text_only: TextOnlyPolicy) -> None:
    pool = make_pool(name, 1, text_only=text_only, share_text=share_text)
    assert_covers(pool, rank(name, pool))
    assert rank(name, pool).order.size == (0 if share_text == 1 and text_only == "exclude" else 1)


@policies
def test_only_images_are_ranked_alike_under_every_policy(name: str, text_only: TextOnlyPolicy) -> None:
    ranking = rank(name, make_pool(name, 50, text_only=text_only, share_text=0))
    assert same(ranking, rank(name, make_pool(name, 50, text_only="proportional", share_text=0)))


@policies
def test_only_text_is_ranked_or_left_out_whole(name: str, text_only: TextOnlyPolicy) -> None:
    pool = make_pool(name, 50, text_only=text_only, share_text=1)
    assert_covers(pool, rank(name, pool))


@policies
def test_one_cluster(name: str, text_only: TextOnlyPolicy) -> None:
    pool = make_pool(name, 40, text_only=text_only, num_clusters=1)
    assert_covers(pool, rank(name, pool))


@policies
def test_constant_scores_are_ranked_whole_and_alike(name: str, text_only: TextOnlyPolicy) -> None:
    pool = make_pool(name, 60, text_only=text_only, constant=True)
    assert_covers(pool, rank(name, pool))
    assert same(rank(name, pool), rank(name, pool))


@policies
def test_same_seed_same_ranking_and_another_seed_another(name: str, text_only: TextOnlyPolicy) -> None:
    pool = make_pool(name, 200, text_only=text_only)
    assert same(rank(name, pool, seed=1), rank(name, pool, seed=1))
    draws = text_only not in DRAWS_NOTHING.get(name, ())
    assert same(rank(name, pool, seed=1), rank(name, pool, seed=2)) != draws


def test_global_random_state_is_neither_read_nor_moved(name: str) -> None:
    pool = make_pool(name, 100)
    before = repr(np.random.get_state(legacy=False))  # noqa: NPY002 (the state that must stay)
    first = rank(name, pool)
    assert repr(np.random.get_state(legacy=False)) == before  # noqa: NPY002
    np.random.seed(99)  # noqa: NPY002
    assert same(first, rank(name, pool))


@policies
def test_inputs_are_left_as_they_were(name: str, text_only: TextOnlyPolicy) -> None:
    pool, untouched = (make_pool(name, 100, text_only=text_only) for _ in range(2))
    rank(name, pool)
    assert np.array_equal(pool.uids, untouched.uids)
    assert np.array_equal(pool.has_image, untouched.has_image)
    assert all(np.array_equal(pool.signals[key], untouched.signals[key]) for key in untouched.signals)
    if pool.cluster_ids is not None and untouched.cluster_ids is not None:
        assert np.array_equal(pool.cluster_ids, untouched.cluster_ids)


def test_other_uids_in_the_same_order_give_the_same_ranking(name: str) -> None:
    pool = make_pool(name, 150)
    renamed = dataclasses.replace(pool, uids=np.char.add("z", pool.uids))
    assert same(rank(name, pool), rank(name, renamed))


def test_cluster_numbers_are_names_only(name: str) -> None:
    """Clusters numbered otherwise, none of them largest anew, leave the order as it was."""
    pool = make_pool(name, 150, text_only="proportional")
    if pool.cluster_ids is not None:
        renumbered = dataclasses.replace(pool, cluster_ids=(10 - pool.cluster_ids).astype(np.int32))
        assert np.array_equal(rank(name, pool).order, rank(name, renumbered).order)


def test_two_hundred_thousand_examples_in_little_time_and_memory(name: str) -> None:
    """A second and 200 bytes an example; anything quadratic would take 300 GB."""
    pool = make_pool(name, 200_000, num_clusters=1000)
    tracemalloc.start()
    try:
        begin = time.perf_counter()
        ranking = rank(name, pool)
        seconds = time.perf_counter() - begin
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert ranking.order.size == 200_000
    assert seconds < 3
    assert peak < 200 * 200_000
