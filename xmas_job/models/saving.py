"""Errors while saving: safetensors and tokenizers tell what the operating system refused as text only."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

OS_ERROR = re.compile(r"os error (\d+)")


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
        raise
