"""When a rule speaks: on the metrics of real stages, at and beside its limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import small_world
from tests.stages.test_cluster import extracted, make_pool
from tests.stages.workbench import Workbench
from xmas_job.alerts.rules import budget_unreachable, cluster_skew, failure_rule, quarantine_spike, stale_heartbeat
from xmas_job.config import IngestSection, RunConfig, validate_config
from xmas_job.environment import AlertSettings
from xmas_job.errors import BadDataError, QualityGateError, TryAgainError, UsageError
from xmas_job.sections import ClusterSection
from xmas_job.stage_io import Metrics, Source
from xmas_job.stages import cluster, ingest, pool

LIMITS = AlertSettings()


def config(**changes: object) -> RunConfig:
    return validate_config({**small_world.RECIPE, **changes}, where="test")


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


def test_skew_is_told_above_the_limit_only(bench: Workbench) -> None:
    values = {"a": (1.0, 0.0), "b": (1.1, 0.0), "c": (1.2, 0.0), "d": (9.0, 0.0)}  # 3 in one of 2: 1.5 times the mean
    part = ({1: values, 2: values}, {})
    made = bench.run(
        cluster.run,
        ClusterSection(num_clusters=2, num_iterations=100),
        pool=make_pool(bench, "abcd"),
        extract=[extracted(bench, part)],
    )
    metrics = made.record.metrics
    assert cluster_skew(metrics, config(), AlertSettings(cluster_times_mean=1.5)) is None
    words = cluster_skew(metrics, config(), AlertSettings(cluster_times_mean=1.49))
    assert words is not None
    assert "the largest of 2 clusters has 3 of 4 examples, 1.5 times the mean" in words


def test_empty_clusters_are_told_above_the_limit_only() -> None:
    metrics: Metrics = {"num_examples": 100, "num_clusters": 20, "largest_cluster": 6, "num_empty_clusters": 3}
    assert cluster_skew(metrics, config(), AlertSettings(empty_cluster_fraction=0.15)) is None
    words = cluster_skew(metrics, config(), AlertSettings(empty_cluster_fraction=0.14))
    assert words is not None
    assert "3 of 20 clusters are empty" in words


def ingested(bench: Workbench, num_broken: int) -> Metrics:
    """Metrics of a landed version with 12 rows, of which some show an image that is not there."""
    world = small_world.World(bench.root.parent)
    landed = small_world.land_version(world, "demo", "v1")
    for number in range(num_broken):
        (landed / "images" / f"{number}.png").write_bytes(b"no image")
    section = IngestSection(image_root="landing/demo/v1", max_quarantine_fraction=1.0)
    made = bench.run(ingest.run, section, key="demo@v1", landing=Source("landing/demo/v1", ""))
    return made.record.metrics


def test_quarantine_is_told_above_the_limit_only(bench: Workbench) -> None:
    metrics = ingested(bench, num_broken=3)  # a quarter of them
    assert quarantine_spike(metrics, config(), AlertSettings(quarantine_fraction=0.25)) is None
    words = quarantine_spike(metrics, config(), AlertSettings(quarantine_fraction=0.24))
    assert words is not None
    assert "3 of 12 rows were quarantined (25.0%), the alert's limit is 24.0%" in words


def test_defaults_warn_before_the_gate_stops(bench: Workbench) -> None:
    assert LIMITS.quarantine_fraction < config().ingest.max_quarantine_fraction
    assert quarantine_spike(ingested(bench, num_broken=0), config(), LIMITS) is None


def test_budget_above_the_pool_is_told_with_what_to_ask_for(bench: Workbench) -> None:
    world = small_world.World(bench.root.parent)
    small_world.land_version(world, "demo", "v1")
    section = IngestSection(image_root="landing/demo/v1")
    made = bench.run(ingest.run, section, key="demo@v1", landing=Source("landing/demo/v1", ""))
    metrics = bench.run(pool.run, config().pool, ingest=[made]).record.metrics
    assert (metrics["num_examples"], metrics["num_text_only"]) == (12, 3)
    assert budget_unreachable(metrics, config(publish={"budget": "12"}), LIMITS) is None
    words = budget_unreachable(metrics, config(publish={"budget": "13"}), LIMITS)
    assert words is not None
    assert "budget 13 is above the pool: 12 examples are eligible" in words
    without_text = {"method": "random", "text_only": "exclude"}
    assert budget_unreachable(metrics, config(publish={"budget": "9"}, select=without_text), LIMITS) is None
    assert budget_unreachable(metrics, config(publish={"budget": "10"}, select=without_text), LIMITS)


def test_heartbeat_is_told_above_the_limit_only() -> None:
    assert stale_heartbeat(300.0, LIMITS) is None
    assert "stood still for 301 s" in str(stale_heartbeat(301.0, LIMITS))


def test_only_a_gate_has_a_rule_of_its_own() -> None:
    codes = {kind: failure_rule(kind.exit_code) for kind in (UsageError, BadDataError, QualityGateError, TryAgainError)}
    assert codes.pop(QualityGateError) == "gate_failed"
    assert set(codes.values()) == {"task_failed"}
