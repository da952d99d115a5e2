"""Where and how a job runs: settings that never change the bytes it makes (XMAS_* variables).

Owns execution. What changes the bytes is in `config`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from xmas_job.errors import UsageError
from xmas_job.logs import LogFormat


class Environment(BaseSettings):
    """Execution settings, read from variables named XMAS_<FIELD>; an empty variable is an unset one."""

    model_config = SettingsConfigDict(env_prefix="XMAS_", env_ignore_empty=True, frozen=True, extra="ignore")

    store_root: str = Field(
        default_factory=lambda: str(Path.cwd() / ".xmas" / "store"),
        description="Root of the store: a folder or file:// URI. Default: .xmas/store under the current folder.",
    )
    scratch: Path = Field(
        default_factory=lambda: Path.cwd() / ".xmas" / "scratch",
        description="Local folder for files on their way to the store; emptied when a stage ends.",
    )
    workers: int = Field(
        default_factory=lambda: os.cpu_count() or 1, ge=1, description="Stages and partitions that run at once."
    )
    loaders: int = Field(
        0, ge=0, description="Processes that decode images ahead of extraction's model; a GPU wants about 4."
    )
    lease_ttl_seconds: float = Field(
        60.0, gt=0, description="A lease whose heartbeat stands still this long is taken over."
    )
    stage_timeout_seconds: float = Field(
        86_400.0, gt=0, description="How long to wait for another worker's stage before trying again later."
    )
    progress_seconds: float = Field(5.0, ge=0, description="Seconds between progress events.")
    launcher: Literal["local"] = Field("local", description="What runs a stage for a scheduler: a process beside it.")
    gpu_pool: str = Field(
        "default_pool", description="Airflow pool of the GPU stages; give it as many slots as there are GPUs."
    )
    alert_urls: str = Field(
        "", description="Where failures are told: Apprise URLs (json://, mailto://, slack://), spaces between."
    )
    log_format: LogFormat = Field("auto", description="auto (console on a terminal, else JSON), json or console.")


def load_environment() -> Environment:
    """The settings of this process.

    Raises:
        UsageError: if a variable does not parse; the message names it.
    """
    try:
        return Environment()
    except ValidationError as error:
        first = error.errors()[0]
        name = "XMAS_" + str(first["loc"][0]).upper()
        raise UsageError(
            f"environment variable {name}={first['input']!r}: {first['msg']}.", f"Correct or unset {name}."
        ) from error
