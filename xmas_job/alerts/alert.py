"""An alert in words: what happened to which stage of which run, where to look, and the command to go on.

Owns the words. Knows neither the scheduler nor the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

HEADLINES: Mapping[str, str] = {
    "task_failed": "{stage} failed in run {run}",
    "run_failed": "run {run} failed",
    "gate_failed": "{stage} did not pass its gate in run {run}",
    "budget_unreachable": "the budget of run {run} is above its pool",
    "stale_heartbeat": "{stage} of run {run} shows no sign of life",
    "quarantine_spike": "many bad rows in {stage} of run {run}",
    "cluster_skew": "skewed clusters in run {run}",
    "trial": "a trial, nothing has failed",
}
"""Every rule, and the first line of what it tells."""
FAILURES = ("task_failed", "gate_failed", "budget_unreachable")
"""The rules that say why a run failed."""
WARNINGS = ("stale_heartbeat", "quarantine_spike", "cluster_skew", "trial")
"""The rules that tell of nothing which has failed."""


@dataclass(frozen=True)
class Alert:
    """What a person needs to act: which run and stage, why, where to look and what to type next."""

    rule: str
    """A key of `HEADLINES`."""
    run: str
    stage: str
    error: str
    """The last error, with its remedy."""
    retry: str
    """The command that goes on from what was finished."""
    link: str = ""
    """The task in the scheduler if there is one, else the report; "" while there is neither."""

    @property
    def node(self) -> str:
        """The stage without its partition: a stage is told of once, however many partitions it has."""
        return self.stage.partition(" partition ")[0]

    @property
    def title(self) -> str:
        """One line for a subject or a headline."""
        return f"xmas_job: {HEADLINES[self.rule].format(run=self.run, stage=self.stage)}"

    @property
    def body(self) -> str:
        """Error, run, stage and link, and the command below them."""
        facts = {"Rule": self.rule, "Run": self.run, "Stage": self.stage, "Look": self.link}
        listed = "\n".join(f"{name}: {value}" for name, value in facts.items() if value)
        return f"{self.error}\n\n{listed}\n\nWhat was finished is kept. To go on:\n{self.retry}"
