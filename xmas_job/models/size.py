"""How large the parts of a model folder are, from config.json and the weights' headers; no weight is read, no torch.

Owns which weights are vision, projector and language by their names. The formulas are in core.cost.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xmas_job.core.cost import ModelSize
from xmas_job.errors import BadDataError

VISION, PROJECTOR = ("vision_tower", "visual", "vision_model", "vision_encoder"), ("projector", "merger", "connector")
PATCH_SIDE, USUAL_SIDE = 28, 672
"""Of families whose tokens follow the picture's size: pixels a token, and of a usual picture (576 tokens)."""


def read_size(folder: Path) -> ModelSize | None:
    """From config.json and the headers of the safetensors files; None where there are none.

    Raises:
        BadDataError: a file of weights is cut off before its header ends.
    """
    if not (folder / "config.json").is_file():
        return None
    config = json.loads((folder / "config.json").read_bytes())
    text, counts = config.get("text_config", config), {"vision": 0, "projector": 0, "language": 0}
    for name, shape in _weights(folder):
        part = "projector" if any(p in name for p in PROJECTOR) else "vision" if any(v in name for v in VISION) else ""
        counts[part or "language"] += math.prod(shape)
    if not counts["language"]:
        return None  # other formats; an estimate of 0 would promise something
    return ModelSize(
        **counts,
        width=text.get("hidden_size", 0),
        num_layers=text.get("num_hidden_layers", 0),
        vocabulary=text.get("vocab_size", 0),
        image_tokens=config.get("image_seq_length") or (USUAL_SIDE // PATCH_SIDE) ** 2,
    )


def _weights(folder: Path) -> Iterator[tuple[str, list[int]]]:
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with file.open("rb") as stream:
                (length,) = struct.unpack("<Q", stream.read(8))
                header: dict[str, Any] = json.loads(stream.read(length))
        except (struct.error, ValueError) as error:
            raise BadDataError(f"{file} is cut off or no safetensors file.", "Copy the model again.") from error
        yield from ((name, entry["shape"]) for name, entry in header.items() if name != "__metadata__")
