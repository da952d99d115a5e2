"""The canonical example and its identity (`uid`), the same for every format it lands in.

Owns what an example is. Refuses to own where it came from (readers) and how it is stored (storage.schemas).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256 as _sha256
from json.encoder import encode_basestring as _json_string
from typing import Literal, NamedTuple

Role = Literal["user", "assistant", "system"]
Modality = Literal["image", "text"]

IMAGE_PLACEHOLDER = "<image>"

_CRLF = re.compile("\r+\n")


class Turn(NamedTuple):
    """One message. `text` holds no image placeholder; `num_images` images stand before the text.

    A tuple, because Arrow stores those as they are and a pool has millions.
    """

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
    r"""The text as identity sees it: placeholders out, CRLF made LF, outer whitespace stripped.

    Normalising twice changes nothing, so an exported example keeps its uid when it lands again: a placeholder
    or a CRLF that only appears once the first is gone (`<ima<image>ge>`, `\r\r\n`) goes too.
    """
    while "<" in text and IMAGE_PLACEHOLDER in text:  # one character is found ten times as fast
        text = text.replace(IMAGE_PLACEHOLDER, "")
    if "\r" in text:
        text = _CRLF.sub("\n", text)
    return text.strip()


def compute_uid(turns: tuple[Turn, ...], image_sha256: Sequence[str]) -> str:
    """First 32 hex digits of the sha256 of the canonical JSON of turns and image digests.

    The canonical JSON is the UTF-8 of {"images": [sha256, ...], "turns": [[role, text, num_images], ...]} with
    sorted keys and no spaces.

    Args:
        turns: normalised turns in order.
        image_sha256: hex sha256 of each image file's bytes, in the order the turns use them.

    Raises:
        UnicodeEncodeError: a text holds a lone surrogate, which has no UTF-8.
    """
    return compute_digests(turns, image_sha256)[0]


def compute_digests(turns: tuple[Turn, ...], image_sha256: Sequence[str]) -> tuple[str, str]:
    """(uid, text_sha256); the latter is of the canonical JSON of the turns alone: the same words on any images."""
    # Written by hand because json.dumps costs as much as all the rest of a row; a test holds them equal.
    parts = [f'["{role}",{_json_string(text)},{num_images}]' for role, text, num_images in turns]
    conversation = ",".join(parts).encode()
    images = ('"' + '","'.join(image_sha256) + '"').encode() if image_sha256 else b""
    return (
        _sha256(b'{"images":[%b],"turns":[%b]}' % (images, conversation)).hexdigest()[:32],
        _sha256(b"[%b]" % conversation).hexdigest(),
    )
