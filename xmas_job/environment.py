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
        description="Root of the store: a folder, file:// or s3://bucket/prefix. Default: .xmas/store under the "
        "current folder.",
    )
    scratch: Path = Field(
        default_factory=lambda: Path.cwd() / ".xmas" / "scratch",
        description="Local folder for files on their way to the store, emptied when a stage ends, and for the cache.",
    )
    cache_bytes: int = Field(
        20 * 10**9, gt=0, description="Limit of the local copies of images and models of an S3 store, in scratch."
    )
    s3_endpoint: str = Field("", description="URL of an S3 server that is not AWS.")
    s3_region: str = Field("", description="Region of the bucket. Default: AWS_REGION or the profile's.")
    s3_addressing: Literal["auto", "path", "virtual"] = Field(
        "auto", description="Where the bucket's name goes. auto: into the path if there is an endpoint."
    )
    s3_checksums: Literal["when_supported", "when_required"] = Field(
        "when_supported", description="when_required for older servers that do not know CRC checksums."
    )
    s3_sse: Literal["none", "AES256", "aws:kms"] = Field(
        "none", description="Encryption at rest asked for with every write. none: as the bucket does by default."
    )
    s3_kms_key: str = Field("", description="Id of a KMS key for every write; means aws:kms.")
    s3_attempts: int = Field(8, ge=1, description="Tries of a call before a busy or silent store stops the stage.")
    s3_timeout_seconds: float = Field(60.0, gt=0, description="How long a call may stay without a byte.")
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
