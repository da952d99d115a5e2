"""What a run computes: one frozen section a stage; unknown keys are refused.

Owns how sections make a run, and what contradicts itself in one; those of signals and clusters are in `sections`.
Where and how a run is executed is in `environment`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from xmas_job.catalog.methods import find_method
from xmas_job.catalog.needs import needs_of, unclustered_needs
from xmas_job.catalog.signals import SIGNALS
from xmas_job.core.budget import parse_budget
from xmas_job.errors import UsageError
from xmas_job.sections import ClusterConfig, EncoderConfig, ExtractConfig, Hardware, Section, SelectorConfig

TextOnlyPolicy = Literal["cluster", "proportional", "exclude"]
DatasetName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*(@[A-Za-z0-9][A-Za-z0-9_.-]*)?$")]
"""A folder of landing/: name (newest version) or name@version."""


class IngestConfig(Section):
    """Reading and validating one landed dataset version."""

    max_quarantine_fraction: float = Field(0.05, ge=0, le=1, description="More bad rows than this stop the run.")
    max_image_pixels: int = Field(
        89_000_000, gt=0, description="Larger images are quarantined undecoded. Pillow itself warns above 89.5 million."
    )


class IngestSection(IngestConfig):
    """What one dataset version's ingest sees: the settings, and where its image paths start."""

    image_root: str = Field(description="Key of a folder in the store.")


class PoolConfig(Section):
    """The union of the landed versions."""

    excluded_uids: tuple[str, ...] = Field((), description="Takedowns: never in a pool, whatever the method.")


class LoraConfig(Section):
    """Low-rank adapters on the language model's linear layers."""

    rank: int = Field(128, ge=1)
    alpha: int = Field(256, ge=1)
    dropout: float = Field(0.05, ge=0, lt=1)


class TrainingConfig(Section):
    """One supervised fine-tuning. Defaults: the recipe shared by LLaVA-1.5 and TinyLLaVA."""

    num_epochs: int = Field(1, ge=1)
    learning_rate: float = Field(2e-5, gt=0)
    projector_learning_rate: float | None = Field(None, gt=0, description="Default: the same as learning_rate.")
    global_batch: int = Field(128, ge=1, description="Examples a step, whatever the number of devices.")
    per_device_batch: int = Field(8, ge=1)
    warmup_fraction: float = Field(0.03, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    lr_schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    max_length: int = Field(2048, ge=16, description="Tokens; longer examples are cut on the right.")
    grouping: Literal["none", "modality_length"] = Field(
        "none", description="Put examples of one modality and alike length into one step, where both modalities are."
    )
    max_unsupervised_fraction: float = Field(
        0.1, ge=0, le=1, description="More examples whose answers are cut off stop the training."
    )
    example_weights: bool = Field(
        default=False,
        description="Weigh losses by the subset's weights (XMAS, Corollary A.1); the paper and its release do not.",
    )
    seed: int = Field(0, description="Order of the examples, dropout and initialisation.")
    hardware: Hardware = Hardware()


class ProxyConfig(Section):
    """The small LVLM whose training is watched."""

    naming = frozenset({"model"})

    model: str = Field(description="Folder of a transformers LVLM: a path, or a key under the store root.")
    num_checkpoints: int = Field(7, ge=1, description="T, evenly spaced over the examples seen, last at the end.")
    training: TrainingConfig = TrainingConfig()

    @field_validator("training")
    @classmethod
    def _unweighted(cls, training: TrainingConfig) -> TrainingConfig:
        if training.example_weights:
            raise ValueError("example_weights are those of a subset; the proxy is trained before there is one")
        return training


class SelectConfig(Section):
    """One ranking of the pool."""

    method: str = Field("xmas", description='A name that `xmas-job methods` lists, or "module:class" of your own.')
    params: Mapping[str, bool | int | float | str] = Field(default_factory=dict)
    text_only: TextOnlyPolicy = "proportional"
    seed: int = 0
    budget: str | None = Field(
        None, description="Filled in from publish.budget where the choice depends on it (methods that are not nested)."
    )

    @field_validator("method")
    @classmethod
    def _known_method(cls, method: str) -> str:
        find_method(method)
        return method

    def identity(self) -> dict[str, Any]:
        """With the method's version: a method from outside changes without a new version of this package."""
        return {**super().identity(), "method_version": find_method(self.method).version}


class PublishConfig(Section):
    """The cut at the budget, and the checks before anything is published."""

    budget: str = Field("15%", description="A percentage, a fraction below 1, or a count of examples.")

    @field_validator("budget", mode="before")
    @classmethod
    def _parsable_budget(cls, budget: object) -> str:
        text = str(budget).strip()
        parse_budget(text)
        return text


class TargetConfig(Section):
    """The LVLM that is tuned on the subset."""

    naming = frozenset({"model"})

    model: str = Field(description="Folder of a transformers LVLM: a path, or a key under the store root.")
    lora: LoraConfig = LoraConfig()
    training: TrainingConfig = TrainingConfig(learning_rate=2e-4, projector_learning_rate=2e-5)


class EvaluateConfig(Section):
    """Greedy answers on a held-out dataset, scored by exact match."""

    naming = frozenset({"dataset"})

    dataset: DatasetName = Field(description="A landed dataset, never part of the pool.")
    max_new_tokens: int = Field(16, ge=1)
    batch_size: int = Field(32, ge=1)
    hardware: Hardware = Hardware()


class ReportConfig(Section):
    """The report shows what the other sections say; it has no settings of its own."""


class ComparisonConfig(Section):
    """Is the subset worth it? Target trainings on the subset and on random subsets of the same size."""

    target: TargetConfig
    evaluate: EvaluateConfig
    num_seeds: int = Field(3, ge=1, description="Trainings an arm; each random one draws a subset of its own.")
    with_full: bool = Field(default=False, description="Also train once on the whole pool, for ARP in report.json.")


class RunConfig(Section):
    """One run, from landed datasets to a report."""

    datasets: tuple[DatasetName, ...] = Field(description="Landed datasets of the pool.")
    image_roots: Mapping[str, str] = Field(
        default_factory=dict,
        description="Dataset name -> key of its image folder under landing/; default: the version's own folder.",
    )
    ingest: IngestConfig = IngestConfig()
    pool: PoolConfig = PoolConfig()
    proxy: ProxyConfig | None = Field(None, description="For methods with signals of it.")
    extract: ExtractConfig = ExtractConfig()
    encoder: EncoderConfig | None = Field(None, description="For methods with signals of it.")
    selector: SelectorConfig = SelectorConfig()
    cluster: ClusterConfig = ClusterConfig()
    select: SelectConfig = SelectConfig()
    publish: PublishConfig = PublishConfig()
    comparison: ComparisonConfig | None = Field(None, description="Absent: select and publish only.")
    channel: str = Field("latest", pattern=r"^[a-z0-9][a-z0-9_-]*$", description="Moves to the published selection.")

    @field_validator("image_roots")
    @classmethod
    def _keys_of_the_store(cls, roots: Mapping[str, str]) -> Mapping[str, str]:
        for root in roots.values():
            key = PurePosixPath(root)
            if key.parts[:1] != ("landing",) or ".." in key.parts or str(key) != root:
                raise ValueError(f"{root!r} is no key under landing/, from where exports name images; land them there")
        return roots

    @model_validator(mode="after")
    def _signals_can_exist(self) -> RunConfig:
        """Every signal of the method is known, and the run has the model that computes it."""
        has = {"proxy": self.proxy is not None, "dual encoder": self.encoder is not None}
        method = find_method(self.select.method)
        for need in needs_of(method):
            signal = SIGNALS.get(need.signal)
            if signal is None:
                raise UsageError(
                    f"method {self.select.method!r} needs the signal {need.signal!r}, which does not exist.",
                    f"Signals are: {', '.join(sorted(SIGNALS))}.",
                )
            if not has["proxy" if signal.model == "proxy" else "dual encoder"]:
                raise UsageError(
                    f"method {self.select.method!r} needs the signal {need.signal!r}, but the recipe has no "
                    f"{'dual encoder' if signal.model == 'selector' else signal.model}.",
                    signal.remedy,
                )
        return self

    @model_validator(mode="after")
    def _signals_have_a_meaning(self) -> RunConfig:
        if self.extract.alignment.score == "leading_vector":
            method = find_method(self.select.method)
            if self.cluster.score != "values":
                raise ValueError("the entries of leading_vector have no meaningful sum; set cluster.score to values")
            if any(need.signal == "alignment" for need in unclustered_needs(method)):
                raise ValueError(f"{self.select.method} reads sums of alignment values, and leading_vector has none")
        return self

    @model_validator(mode="after")
    def _disjoint_datasets(self) -> RunConfig:
        names = [dataset.partition("@")[0] for dataset in self.datasets]
        if not names:
            raise ValueError("datasets is empty; name at least one landed dataset")
        if len(set(self.datasets)) < len(names):
            raise ValueError("datasets names the same dataset twice")
        held_out = [self.comparison.evaluate.dataset.partition("@")[0]] if self.comparison else []
        if unknown := set(self.image_roots) - {*names, *held_out}:
            raise ValueError(f"image_roots names {sorted(unknown)[0]!r}, which is no dataset of this run")
        if self.comparison and self.comparison.evaluate.dataset.partition("@")[0] in names:
            raise ValueError(f"{self.comparison.evaluate.dataset!r} is in the pool and held out at once")
        return self


def validate_config(data: Mapping[str, Any], *, where: str) -> RunConfig:
    """The typed configuration, or one line for the first thing that is wrong.

    Raises:
        UsageError: for an unknown key (with the nearest known one) or a wrong value.
    """
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise UsageError(f"{where}: unknown key {path!r}.", _suggestion(first["loc"])) from None
        message = first["msg"].removeprefix("Value error, ")
        raise UsageError(
            f"{where}: {path}: {message}." if path else f"{where}: {message}.", "Correct it and run again."
        ) from None


def _suggestion(location: Sequence[int | str]) -> str:
    section: type[BaseModel] = RunConfig
    for part in location[:-1]:
        field = section.model_fields.get(str(part))
        candidates = [] if field is None else [field.annotation, *get_args(field.annotation)]
        section = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), section)
    known = sorted(section.model_fields)
    near = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"Known keys there: {', '.join(known)}."
