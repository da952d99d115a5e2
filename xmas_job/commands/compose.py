"""compose: an LVLM folder from a language model, a vision tower and a projector."""

from __future__ import annotations

from pathlib import Path

from xmas_job.fingerprint import Json
from xmas_job.models.compose import Parts, compose


def compose_model(
    language_model: str,
    vision_tower: str,
    directory: Path,
    projector: Path | None,
    seed: int,
    *,
    pads_to_square: bool = False,
) -> dict[str, Json]:
    """Write it, and what it is made of. Raises UsageError, BadDataError."""
    parts = Parts(language_model, vision_tower, projector, pads_to_square=pads_to_square)
    return compose(parts, directory, seed=seed)
