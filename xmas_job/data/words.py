"""Words of conversations, counted for thousands at once: splitting each text would cost as much as its digest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xmas_job.data.examples import Turn


def count_words(conversations: Sequence[tuple[Turn, ...]]) -> NDArray[np.int32]:
    """Whitespace-separated words of all messages of each conversation, as `str.split` separates them; shape (N,)."""
    texts = [" ".join([text for _, text, _ in turns]) for turns in conversations]
    counts = _count_ascii_words([text if text.isascii() else "" for text in texts])
    for place, text in enumerate(texts):
        if not text.isascii():
            counts[place] = len(text.split())
    return counts


def _count_ascii_words(texts: Sequence[str]) -> NDArray[np.int32]:
    if not texts:
        return np.empty(0, np.int32)
    characters = np.frombuffer(("\n" + "\n".join(texts)).encode("ascii"), np.uint8)
    # Bytes 9-13 and 28-32; below the lower bound they wrap around to large ones.
    is_space = (characters - np.uint8(9) <= 4) | (characters - np.uint8(28) <= 4)
    is_start = np.append(is_space[:-1] & ~is_space[1:], False)  # of the word at the next character
    places = np.cumsum([0, *[len(text) + 1 for text in texts[:-1]]])  # of the line feed before each text
    return np.add.reduceat(is_start, places, dtype=np.int32)
