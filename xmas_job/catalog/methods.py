"""The selection methods that exist: a literal table, read by config, plan and the contract test."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MethodEntry:
    """What the rest of the job must know of a method without importing it."""

    entrypoint: str
    """ "module:class" of a frozen dataclass whose fields are the hyper-parameters."""
    paper: str
    clustered_signal: str | None
    """The signal whose trajectories are clustered for it; None if it needs neither proxy nor signal."""
    nested: bool
    """Whether a smaller budget is a prefix of a larger one."""


METHODS: dict[str, MethodEntry] = {
    "xmas": MethodEntry("xmas_job.selection.xmas:Xmas", "arXiv 2510.01454", "alignment", nested=True),
    "random": MethodEntry("xmas_job.selection.random:Random", "-", None, nested=True),
    "full": MethodEntry("xmas_job.selection.full:Full", "-", None, nested=True),
}
