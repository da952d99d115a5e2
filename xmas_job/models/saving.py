"""Errors while saving: safetensors, tokenizers and torch tell what the operating system refused as text only."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

OS_ERROR = re.compile(r"os error (\d+)")
TORCH_WRITER = re.compile(r"PytorchStreamWriter failed writing|basic_ios::clear: iostream error")
"""torch 2.13 gives no number; a full disk is what makes it fail."""


@contextmanager
def os_errors() -> Iterator[None]:
    """Give a refusal of the operating system (a full disk, say) back as the OSError that it was."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if match := OS_ERROR.search(str(error)):
            number = int(match[1])
            raise OSError(number, os.strerror(number), "the model") from error
        if TORCH_WRITER.search(str(error)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "the training's state") from error
        raise
