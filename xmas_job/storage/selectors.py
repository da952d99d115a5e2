"""Trained selectors as folders that travel: where a store keeps them, and the card that says what one was trained on.

Owns the names of its files and the check of the encoder. What is in the weights is `training.selector`'s; nothing here
needs torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from xmas_job.errors import BadDataError, UsageError

CARD = "card.json"
WEIGHTS = "selector.safetensors"


def selector_key(digest: str) -> str:
    """Folder of the selector with this content in a store."""
    return f"selectors/{digest[:32]}"


def read_card(folder: Path) -> dict[str, Any]:
    """What a selector says of itself, where its weights lie beside it.

    Raises:
        UsageError: if the folder holds none.
        BadDataError: if its card is no JSON object with the encoder's digest.
    """
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        str(card["encoder"])
    except FileNotFoundError:
        raise UsageError(f"{folder} is no selector: there is no {CARD}.", "Train one first.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise BadDataError(f"{folder / CARD} is broken: {error!r}.", "Fetch or train the selector again.") from error
    if not (folder / WEIGHTS).is_file():
        raise UsageError(f"{folder} is no selector: there is no {WEIGHTS}.", "Fetch or train it again.")
    return dict(card)


def require_encoder(card: dict[str, Any], digest: str, *, selector: str, encoder: str) -> None:
    """Refuse a selector that was trained on another encoder's features: every space is another.

    Args:
        card: of the selector.
        digest: of the run's encoder.
        selector: names the selector in the message.
        encoder: names the run's encoder in the message.

    Raises:
        UsageError: if they differ.
    """
    if card["encoder"] != digest:
        raise UsageError(
            f"selector {selector} was trained on features of the encoder {str(card['encoder'])[:12]}, but the run's "
            f"encoder, {encoder}, is {digest[:12]} (sha256 of the model folder).",
            "Set encoder.model to the folder it was trained with, or train a selector with this one.",
        )
