"""The canonical example and its identity (`uid`), the same for every format it lands in.

Owns what an example is. Refuses to own where it came from (readers) and how it is stored (storage.schemas).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal

Role = Literal["user", "assistant", "system"]
Modality = Literal["image", "text"]

IMAGE_PLACEHOLDER = "<image>"


@dataclass(frozen=True, slots=True)
class Turn:
    """One message. `text` holds no image placeholder; `num_images` images stand before the text."""

    role: Role
    text: str
    num_images: int = 0


@dataclass(frozen=True, slots=True)
class Example:
    """One instruction example as every stage after ingest sees it.

    `image_uris` are store keys or absolute URIs, in the order the turns use them; the sum of `num_images` over
    the turns equals their number. An example without images is text-only.
    """

    uid: str
    turns: tuple[Turn, ...]
    image_uris: tuple[str, ...] = ()

    @property
    def modality(self) -> Modality:
        """`image` when the example shows at least one image, else `text`."""
        return "image" if self.image_uris else "text"


def normalise_text(text: str) -> str:
    """The text as identity sees it: placeholders out, CRLF made LF, outer whitespace stripped."""
    return text.replace(IMAGE_PLACEHOLDER, "").replace("\r\n", "\n").strip()


def compute_uid(turns: tuple[Turn, ...], image_sha256: tuple[str, ...]) -> str:
    """First 32 hex digits of the sha256 of the canonical JSON of turns and image digests.

    Args:
        turns: normalised turns in order.
        image_sha256: hex sha256 of each image file's bytes, in the order the turns use them.
    """
    identity = {
        "turns": [[turn.role, turn.text, turn.num_images] for turn in turns],
        "images": list(image_sha256),
    }
    canonical = json.dumps(identity, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()[:32]
