"""When a run is told of though nothing has failed, or more exactly than by "failed": rules on what its stages measured.

Owns the rules; their limits are in `environment.AlertSettings`. Pure: metrics in, words out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from xmas_job.config import RunConfig
from xmas_job.core.budget import resolve_budget
from xmas_job.environment import AlertSettings
from xmas_job.errors import QualityGateError, UsageError
from xmas_job.fingerprint import Json

Metrics = Mapping[str, Json]


@dataclass(frozen=True)
class Rule:
    """Looks at the metrics of one stage's record; None if there is nothing to tell."""

    name: str
    stage: str
    says: Callable[[Metrics, RunConfig, AlertSettings], str | None]


def quarantine_spike(metrics: Metrics, _: RunConfig, limits: AlertSettings) -> str | None:
    """More quarantined rows than usual, though not as many as stop the run."""
    bad, rows = _count(metrics, "num_quarantined"), _count(metrics, "num_rows")
    if bad <= limits.quarantine_fraction * rows:
        return None
    return (
        f"{bad:,} of {rows:,} rows were quarantined ({bad / rows:.1%}), the alert's limit is "
        f"{limits.quarantine_fraction:.1%}. Look at quarantine.parquet of the stage for the reasons."
    )


def cluster_skew(metrics: Metrics, _: RunConfig, limits: AlertSettings) -> str | None:
    """One cluster far above the mean, or many empty ones: equal quotas then mean little."""
    examples, clusters = _count(metrics, "num_examples"), _count(metrics, "num_clusters")
    largest, empty = _count(metrics, "largest_cluster"), _count(metrics, "num_empty_clusters")
    times_mean = largest * clusters / examples
    if times_mean > limits.cluster_times_mean:
        return (
            f"the largest of {clusters:,} clusters has {largest:,} of {examples:,} examples, {times_mean:.1f} times "
            f"the mean; the alert's limit is {limits.cluster_times_mean:g}. Look for near-duplicates, or take more "
            "clusters."
        )
    if empty > limits.empty_cluster_fraction * clusters:
        return (
            f"{empty:,} of {clusters:,} clusters are empty, the alert's limit is {limits.empty_cluster_fraction:.0%}. "
            "Lower cluster.num_clusters."
        )
    return None


def budget_unreachable(metrics: Metrics, config: RunConfig, _: AlertSettings) -> str | None:
    """A budget above what the pool can give."""
    text_only = _count(metrics, "num_text_only") if config.select.text_only == "exclude" else 0
    try:
        resolve_budget(config.publish.budget, _count(metrics, "num_examples") - text_only)
    except UsageError as error:
        return str(error)
    return None


RULES = (
    Rule("quarantine_spike", "ingest", quarantine_spike),
    Rule("budget_unreachable", "pool", budget_unreachable),
    Rule("cluster_skew", "cluster", cluster_skew),
)


def stale_heartbeat(seconds: float, limits: AlertSettings) -> str | None:
    """A lease that is held, and whose heartbeat was last written `seconds` before now by the store's clock."""
    if seconds <= limits.heartbeat_seconds:
        return None
    return (
        f"its heartbeat has stood still for {seconds:.0f} s, the alert's limit is {limits.heartbeat_seconds:.0f}. "
        "Its process hangs or is gone; whoever starts the stage again takes over."
    )


def failure_rule(exit_code: int) -> str:
    """The rule that tells of a stage that ended with this exit code."""
    return "gate_failed" if exit_code == QualityGateError.exit_code else "task_failed"


def _count(metrics: Metrics, name: str) -> int:
    value = metrics[name]
    assert isinstance(value, int)
    return value
