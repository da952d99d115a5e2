"""Reaching code by "module:function", so that the graph and the cli stay free of heavy imports."""

from __future__ import annotations

import importlib
from typing import Any


def load_entrypoint(reference: str) -> Any:
    """The object named by `reference`, e.g. "xmas_job.stages.pool:run".

    Raises:
        ValueError: if `reference` is not of the form "module:name".
        ImportError, AttributeError: if there is no such module or name.
    """
    module_name, separator, name = reference.partition(":")
    if not separator or not name:
        raise ValueError(f"entrypoint {reference!r} is not of the form 'module:name'")
    return getattr(importlib.import_module(module_name), name)
