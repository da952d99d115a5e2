"""The sections of what is computed of examples: signals of the proxy and the dual encoder, clusters, the selector.

Owns what a section is, and what of it enters a fingerprint. How sections make a run is in `config`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from xmas_job.catalog.methods import Checkpoints
from xmas_job.catalog.needs import parse_needs, written

Device = Literal["cpu", "cuda"]
Dtype = Literal["float32", "bfloat16"]

Layer = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """A stage's own configuration: frozen, typed, no unknown keys, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    naming: ClassVar[frozenset[str]] = frozenset()
    """Fields that only name an input. The input's content digest stands for them in the fingerprint."""

    def identity(self) -> dict[str, Any]:
        """The fields that enter the stage's fingerprint, as JSON values."""
        return self.model_dump(mode="json", exclude=set(self.naming))


class Hardware(Section):
    """Device and precision. Part of identity, because both change bytes."""

    device: Device = "cpu"
    dtype: Dtype = "float32"
    cpu_threads: int = Field(1, ge=1, description="Threads of one process on a CPU; sums depend on their number.")


class AlignmentConfig(Section):
    """Which score of the alignment family; defaults are the paper's. Equations: extraction/alignment.py."""

    attention: Literal["paper", "head_mean"] = Field(
        "paper", description="One map of all heads side by side before RoPE, or the mean of the heads' own maps."
    )
    block: Literal["cross_modal", "full"] = Field("cross_modal", description="Text rows and image columns, or all.")
    layers: Literal["all", "first", "last"] | Annotated[tuple[Layer, ...], Field(min_length=1)] = Field(
        "all", description="Or a list, from 0."
    )
    aggregation: Literal["sum", "concat_text", "concat_vision"] = Field("sum", description="Of the layers' blocks.")
    score: Literal["singular_values", "leading_vector"] = "singular_values"
    top_k: Annotated[int, Field(ge=1)] | Literal["all"] = Field(
        5, description="Singular values kept; of all only the sum is kept."
    )

    @model_validator(mode="after")
    def _vectors_have_one_entry_an_image_token(self) -> AlignmentConfig:
        if self.score == "leading_vector" and (self.block == "full" or self.aggregation == "concat_vision"):
            raise ValueError(
                "leading_vector has an entry an image token; with block full or aggregation concat_vision it has others"
            )
        return self


class ExtractConfig(Section):
    """Signals of the proxy's checkpoints."""

    signals: tuple[str, ...] = Field(
        (),
        description="Beside those that the method needs, so that one pass serves several methods: a name (all "
        "checkpoints 1..T) or name@last, name@first and last, name@first and all (first: before training).",
    )
    alignment: AlignmentConfig = AlignmentConfig()
    coincide_layers: tuple[Layer, ...] = Field(
        (3, 7, 11, 15, 19),
        min_length=1,
        description="Decoder layers of COINCIDE's features; those of a 24-layer proxy.",
    )
    share_prefixes: bool = Field(default=True, description="Compute what examples on one image share once.")
    partition_size: int = Field(4096, ge=1, description="Examples a partition; never depends on the workers.")
    token_budget: int = Field(16_384, ge=1, description="Padded tokens a batch.")
    max_length: int = Field(2048, ge=16)
    hardware: Hardware = Hardware()

    @field_validator("signals")
    @classmethod
    def _known_signals(cls, signals: tuple[str, ...]) -> tuple[str, ...]:
        return written(parse_needs(signals))

    def identity(self) -> dict[str, Any]:
        """Settings of signals that are not extracted count as their defaults: they change no byte."""
        extracted = {need.signal for need in parse_needs(self.signals)}
        own = {"alignment": "alignment", "coincide": "coincide_layers"}
        unused = [setting for signal, setting in own.items() if signal not in extracted]
        defaults = ExtractConfig().model_dump(mode="json", include=set(unused))
        return {**super().identity(), **defaults}


class EncoderConfig(Section):
    """The frozen dual encoder of images and texts (CLIP, SigLIP, ...)."""

    naming = frozenset({"model"})

    model: str = Field(description="Folder of a transformers dual encoder: a path, or a key under the store root.")
    batch_size: int = Field(64, ge=1, description="Examples at once.")
    partition_size: int = Field(4096, ge=1, description="Examples a partition; never depends on the workers.")
    hardware: Hardware = Hardware()


class KMeansConfig(Section):
    """What of a k-means no method has an opinion on."""

    score: Literal["sum", "values"] = Field(
        "sum",
        description="A step of alignment trajectories: the sum of an example's values, or the values themselves.",
    )
    max_points_per_centroid: int = Field(256, ge=1, description="k-means trains on at most K times as many examples.")
    seed: int = Field(1234, description="faiss's own default, as in the public release.")


class ClusterConfig(KMeansConfig):
    """The k-means of the signal that the method names (faiss)."""

    num_clusters: int | None = Field(
        None,
        ge=1,
        description="K, taken literally. Default: the method's own, but no more than one for 39 examples.",
    )
    num_iterations: int | None = Field(None, ge=1, description="Default: the method's own.")
    spherical: bool | None = Field(None, description="Compare directions instead of points. Default: the method's own.")


class ClusterSection(KMeansConfig):
    """What one run clusters: the method's need, with what the recipe says otherwise."""

    num_clusters: int = Field(ge=1)
    num_iterations: int = Field(ge=1)
    signal: str = "alignment"
    checkpoints: Checkpoints = "all"
    spherical: bool = False
    is_most: bool = False
    """Whether `num_clusters` is lowered where a pool is too small for it."""

    def identity(self) -> dict[str, Any]:
        """Without what only other clusterings than the first kind have: new kinds leave its fingerprint as it was."""
        later = {"signal", "checkpoints", "spherical", "is_most"}
        said = self.model_dump(mode="json", include=later, exclude_defaults=True)
        return {**self.model_dump(mode="json", exclude=later), **said}


class SelectorTraining(Section):
    """Settings of OFA's selector; defaults are the release's. It is under-trained on purpose."""

    core_share: float = Field(0.03, gt=0, le=1, description="Of a cluster, nearest to its centroid: they get labels.")
    validation_share: float = Field(0.2, gt=0, lt=1, description="Of the core, held out to choose the epoch.")
    num_epochs: int = Field(100, ge=1)
    batch_size: int = Field(1024, ge=1)
    learning_rate: float = Field(1e-5, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    target_macro_accuracy: float = Field(0.60, gt=0, le=1, description="The epoch nearest to it is kept.")
    seed: int = 42


class SelectorConfig(SelectorTraining):
    """OFA's selector: trained on this run's pool, or trained already."""

    uri: str | None = Field(
        None, description="A trained selector: a folder, a key under the store root, a file:// or s3:// URI."
    )
    num_clusters: int | None = Field(
        None, ge=1, description="K, taken literally. Default: 128, but no more than one for 39 examples."
    )


class SelectorSection(SelectorTraining):
    """What one run trains."""

    num_clusters: int = Field(ge=1)
    is_most: bool
    """Whether `num_clusters` is lowered where a pool is too small for it."""


class ApplySelectorSection(Section):
    """A selector is applied as it is; there is nothing to set."""
