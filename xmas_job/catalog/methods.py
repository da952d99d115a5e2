"""The selection methods that exist: a literal table, read by config, plan and the contract test.

A method from outside is named "module:class" and carries its line of the table itself, as `entry`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from xmas_job.entrypoints import load_entrypoint
from xmas_job.errors import UsageError

Checkpoints = Literal["none", "last", "first and last", "all", "first and all"]
"""Which of the proxy's checkpoints: "all" are 1..T, "first" is 0, before training; "none" if no proxy is involved."""

Cost = Literal["nothing", "one encoder pass", "proxy and one pass", "proxy and a pass a checkpoint"]


@dataclass(frozen=True)
class SignalNeed:
    """A signal that a method reads, and at which checkpoints."""

    signal: str
    checkpoints: Checkpoints


@dataclass(frozen=True)
class ClusteringNeed:
    """The clusters that a method reads, with its paper's settings."""

    signal: str
    checkpoints: Checkpoints
    num_clusters: int
    num_iterations: int
    spherical: bool
    by: Literal["k-means", "selector"] = "k-means"
    """Whose clusters: the pool's own, or the nearest of a trained selector's centroids."""


@dataclass(frozen=True)
class MethodEntry:
    """What the rest of the job must know of a method without importing it."""

    entrypoint: str
    """ "module:class" of a frozen dataclass whose fields are the hyper-parameters."""
    paper: str
    keeps: str
    """Which end of its score it keeps, in words."""
    cost: Cost
    """What has to be computed before it can rank."""
    nested: bool
    """Whether one ranking serves every budget, each being a prefix of it."""
    signals: tuple[SignalNeed, ...] = ()
    clustering: ClusteringNeed | None = None
    experimental: bool = False
    """Whether it is a candidate of our own that is not measured enough."""
    version: int = 1
    """Bump when the same pool, parameters and seed give another choice: it enters the fingerprint."""

    @property
    def clustered_signal(self) -> str | None:
        """The signal whose clusters it reads; None if it reads none."""
        return self.clustering.signal if self.clustering else None

    @property
    def signal_names(self) -> tuple[str, ...]:
        """Every signal it reads, itself or as clusters."""
        clustered = (self.clustering.signal,) if self.clustering else ()
        return tuple(dict.fromkeys((*(need.signal for need in self.signals), *clustered)))


PROXY_ONCE: Cost = "proxy and one pass"
PROXY_ALWAYS: Cost = "proxy and a pass a checkpoint"
ENCODER: Cost = "one encoder pass"

METHODS: dict[str, MethodEntry] = {
    "xmas": MethodEntry(
        "xmas_job.selection.xmas:Xmas",
        "arXiv 2510.01454",
        "smallest instability in each cluster",
        PROXY_ALWAYS,
        nested=True,
        signals=(SignalNeed("alignment", "all"),),
        clustering=ClusteringNeed("alignment", "all", 1000, 100, spherical=False),
    ),
    "random": MethodEntry("xmas_job.selection.random:Random", "-", "a uniform draw", "nothing", nested=True),
    "full": MethodEntry("xmas_job.selection.full:Full", "-", "everything", "nothing", nested=True),
    "middle_perplexity": MethodEntry(
        "xmas_job.selection.middle_perplexity:MiddlePerplexity",
        "arXiv 2309.04564",
        "the band around the median",
        PROXY_ONCE,
        nested=True,
        signals=(SignalNeed("perplexity", "last"),),
    ),
    "highest_learnability": MethodEntry(
        "xmas_job.selection.highest_learnability:HighestLearnability",
        "arXiv 2310.13008",
        "largest fall of the loss",
        PROXY_ONCE,
        nested=True,
        signals=(SignalNeed("loss", "first and last"),),
    ),
    "el2n": MethodEntry(
        "xmas_job.selection.el2n:El2n",
        "arXiv 2107.07075",
        "highest",
        PROXY_ONCE,
        nested=True,
        signals=(SignalNeed("el2n", "last"),),
    ),
    "clip_score": MethodEntry(
        "xmas_job.selection.clip_score:ClipScore",
        "arXiv 2104.08718",
        "highest",
        ENCODER,
        nested=True,
        signals=(SignalNeed("clip_score", "none"),),
    ),
    "semdedup": MethodEntry(
        "xmas_job.selection.semdedup:SemDeDup",
        "arXiv 2303.09540",
        "least like an example farther from the centroid",
        PROXY_ONCE,
        nested=True,
        signals=(SignalNeed("last_state", "last"),),
        clustering=ClusteringNeed("last_state", "last", 10_000, 50, spherical=True),
    ),
    "d2_pruning": MethodEntry(
        "xmas_job.selection.d2_pruning:D2Pruning",
        "arXiv 2310.07931",
        "largest margin (easiest), neighbours discounted",
        PROXY_ONCE,
        nested=True,
        signals=(SignalNeed("aum", "last"), SignalNeed("mean_state", "last")),
    ),
    "self_sup": MethodEntry(
        "xmas_job.selection.self_sup:SelfSup",
        "arXiv 2206.14486",
        "closest to its centroid",
        ENCODER,
        nested=True,
        signals=(SignalNeed("clip", "none"),),
        clustering=ClusteringNeed("clip", "none", 10_000, 50, spherical=True),
    ),
    "coincide": MethodEntry(
        "xmas_job.selection.coincide:Coincide",
        "arXiv 2406.10995",
        "the likest to its cluster as a whole",
        PROXY_ONCE,
        nested=False,
        signals=(SignalNeed("coincide", "last"),),
        clustering=ClusteringNeed("coincide", "last", 10_000, 50, spherical=True),
    ),
    "s2l": MethodEntry(
        "xmas_job.selection.s2l:S2L",
        "arXiv 2403.07384",
        "a balanced draw over clusters",
        PROXY_ALWAYS,
        nested=True,
        clustering=ClusteringNeed("loss", "all", 100, 20, spherical=False),
    ),
    "ofa": MethodEntry(
        "xmas_job.selection.ofa:Ofa",
        "arXiv 2605.26761",
        "lowest confidence in each cluster",
        ENCODER,
        nested=False,
        signals=(SignalNeed("ofa_confidence", "none"),),
        clustering=ClusteringNeed("clip", "none", 128, 300, spherical=False, by="selector"),
        version=2,
    ),
    "ofa_dpp": MethodEntry(
        "xmas_job.selection.ofa_dpp:OfaDpp",
        "arXiv 2605.26761",
        "a diverse draw of low confidence in each cluster",
        ENCODER,
        nested=False,
        signals=(SignalNeed("ofa_confidence", "none"), SignalNeed("clip", "none")),
        clustering=ClusteringNeed("clip", "none", 128, 300, spherical=False, by="selector"),
        version=2,
    ),
    "density": MethodEntry(
        "xmas_job.selection.density:Density",
        "-",
        "sparse regions, by a weighted draw",
        PROXY_ALWAYS,
        nested=True,
        signals=(SignalNeed("loss", "all"), SignalNeed("alignment", "all")),
        experimental=True,
    ),
    "hierarchical": MethodEntry(
        "xmas_job.selection.hierarchical:Hierarchical",
        "-",
        "a balanced draw over coarse and fine cells",
        ENCODER,
        nested=True,
        clustering=ClusteringNeed("clip", "none", 300, 50, spherical=False),
        experimental=True,
    ),
}


def find_method(name: str) -> MethodEntry:
    """The entry of a method of the table, or of the class that "module:class" names.

    Raises:
        UsageError: if there is no such method, module or class, or it carries no entry.
    """
    if name in METHODS:
        return METHODS[name]
    if ":" not in name:
        raise UsageError(
            f"unknown method {name!r}; known: {', '.join(sorted(METHODS))}.",
            'Name one of them, or "module:class" of your own.',
        )
    try:
        kind = load_entrypoint(name)
    except (ValueError, ImportError, AttributeError) as error:
        raise UsageError(
            f"method {name!r} cannot be loaded: {error}.", "Put its module on PYTHONPATH wherever stages run."
        ) from error
    entry = getattr(kind, "entry", None)
    if not isinstance(entry, MethodEntry) or entry.entrypoint != name:
        raise UsageError(
            f"method {name!r} does not say what it needs.",
            f"Give the class `entry: ClassVar[MethodEntry] = MethodEntry({name!r}, ...)`.",
        )
    wanted = "rank" if entry.nested else "select"
    if not hasattr(kind, wanted):
        raise UsageError(
            f"method {name!r} says nested={entry.nested} and has no {wanted}().",
            "A nested method has rank(pool, rng), another select(pool, budget, rng).",
        )
    return entry
