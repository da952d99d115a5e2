"""Errors while saving weights: safetensors tells what the operating system refused as text only."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError

OS_ERROR = re.compile(r"os error (\d+)")


@contextmanager
def os_errors() -> Iterator[None]:
    """Give a refusal of the operating system (a full disk, say) back as the OSError that it was."""
    try:
        yield
    except SafetensorError as error:
        if match := OS_ERROR.search(str(error)):
            number = int(match[1])
            raise OSError(number, os.strerror(number), "the weights") from error
        raise
