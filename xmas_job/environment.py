"""Where and how a job runs: settings that never change the bytes it makes (XMAS_* variables).

Owns execution. What changes the bytes is in `config`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, Json, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from xmas_job.errors import UsageError
from xmas_job.logs import LogFormat

HASTE = {"s3_attempts": 2, "s3_timeout_seconds": 4.0}
"""Where an answer that comes late is worth no more than none."""


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
    loaders: int | None = Field(
        None,
        ge=0,
        description="Processes that decode images ahead of a model, each process's own. Default: as many as the "
        "machine has cores, at most 4, beside a GPU; 0 on a CPU, where the model needs the cores.",
    )
    processes: int | None = Field(
        None, ge=1, description="Processes of a training on this machine. Default: one a GPU, or one."
    )
    zero_stage: Literal[0, 1, 2, 3] | None = Field(
        None, description="DeepSpeed's ZeRO stage; 0: plain. Default: 2 for several processes; 13B and more need 3."
    )
    num_nodes: int = Field(1, ge=1, description="Machines of one training; start the stage on each of them.")
    node_rank: int = Field(0, ge=0, description="Which of them this is; 0 writes the results.")
    rendezvous: str = Field("", description="host:port of machine 0, where the processes of all machines meet.")
    activation_checkpointing: bool | None = Field(
        None, description="Compute activations twice instead of keeping them. Default: on a GPU."
    )
    resume_minutes: float = Field(30.0, gt=0, description="How often a training keeps a state to go on from.")
    resume_steps: int | None = Field(None, ge=1, description="Keep one every so many optimizer steps, too.")
    resume_keep: int = Field(2, ge=1, description="States that are kept; a commit clears them all away.")
    min_rate_fraction: float = Field(
        0.1, ge=0, lt=1, description="Of a training's usual tokens a second; less, for two windows, ends it. 0: never."
    )
    slow_minutes: float = Field(15.0, gt=0, description="Length of such a window.")
    lease_ttl_seconds: float = Field(
        60.0, gt=0, description="A lease whose heartbeat stands still this long is taken over."
    )
    stage_timeout_seconds: float = Field(
        86_400.0, gt=0, description="How long to wait for another worker's stage before trying again later."
    )
    progress_seconds: float = Field(5.0, ge=0, description="Seconds between progress events.")
    launcher: Literal["local", "docker", "kubernetes"] = Field(
        "local", description="What runs a stage for a scheduler: a process beside it, a container, or a pod."
    )
    max_gpus: int | None = Field(
        None, ge=0, description="GPUs that one process gets at most; 0: none. Default: what its stage asks for."
    )
    gpu: str = Field("A100", description="GPU that `plan` estimates hours for: H200, H100, A100, L40S, A6000 or 4090.")
    gpu_pool: str = Field(
        "default_pool", description="Airflow pool of the GPU stages; give it as many slots as there are GPUs."
    )
    alert_urls: str = Field(
        "",
        repr=False,  # they hold passwords
        description="Where failures are told: Apprise URLs (json://, mailto://, slack://), spaces between.",
    )
    log_format: LogFormat = Field("auto", description="auto (console on a terminal, else JSON), json or console.")

    @property
    def in_haste(self) -> Environment:
        """The same, but a silent store is given up after seconds."""
        return self.model_copy(update=HASTE)


class DockerSettings(BaseSettings):
    """What a container of the launcher `docker` gets: variables named XMAS_DOCKER_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="XMAS_DOCKER_", env_ignore_empty=True, frozen=True, extra="ignore")

    image: str = Field("xmas-job", description="Image of every stage, made by docker/job.Dockerfile.")
    pull: bool = Field(default=False, description="Pull the image before every stage. Default: it has to be there.")
    connection: str | None = Field(None, description="Airflow connection of the registry to pull from.")
    user: str | None = Field(None, description="uid or uid:gid that owns the store's files. Default: the image's user.")
    mounts: str = Field(
        "", description="Folders of the engine's machine that stages see: path, source:target or source:target:ro."
    )
    scratch: str | None = Field(
        None,
        description="Folder of the engine's machine for scratch files. Default: a volume that goes with the container.",
    )
    network: str | None = Field(None, description="bridge, host or a network's name. Default: the engine's.")
    shm_size: str = Field("1g", description="Size of /dev/shm, through which torch's processes pass tensors.")
    ipc: str | None = Field(None, description="host: the machine's own /dev/shm, in place of XMAS_DOCKER_SHM_SIZE.")
    ulimits: str = Field("", description="name=soft or name=soft:hard, spaces between: memlock=-1 stack=67108864.")
    memory: str | None = Field(None, description="Most memory of a container, e.g. 200g. Default: its stage's.")
    gpu_ids: str = Field(
        "", description="GPUs to share out, e.g. 0 1 2 3. Default: Docker's own choice, always the first ones."
    )
    gpu_locks: Path = Field(
        Path("/var/tmp/xmas-gpus"),  # noqa: S108 (one for all workers of a machine)
        description="Folder of the locks by which the workers of one machine share out its GPUs.",
    )


class KubernetesSettings(BaseSettings):
    """What a pod of the launcher `kubernetes` gets: variables named XMAS_KUBERNETES_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="XMAS_KUBERNETES_", env_ignore_empty=True, frozen=True, extra="ignore")

    image: str = Field("xmas-job", description="Image of every stage, made by docker/job.Dockerfile.")
    namespace: str | None = Field(None, description="Namespace of the pods. Default: the connection's.")
    connection: str = Field("kubernetes_default", description="Airflow connection of the cluster.")
    service_account: str | None = Field(None, description="Service account of the pods; may give them the store.")
    secret: str | None = Field(None, description="Secret whose keys become variables, such as AWS_SECRET_ACCESS_KEY.")
    scratch_size: str = Field("200Gi", description="Most that a stage may keep in XMAS_SCRATCH.")
    shm_size: str = Field("8Gi", description="Size of /dev/shm, through which torch's processes pass tensors.")


class AlertSettings(BaseSettings):
    """Limits of the alert rules: variables named XMAS_ALERT_<FIELD>. What stops a run is in its configuration."""

    model_config = SettingsConfigDict(env_prefix="XMAS_ALERT_", env_ignore_empty=True, frozen=True, extra="ignore")

    quarantine_fraction: float = Field(
        0.02, ge=0, le=1, description="Quarantined rows of a landed version; 5% stop a run unless its recipe differs."
    )
    cluster_times_mean: float = Field(20.0, gt=1, description="Size of the largest cluster, in mean sizes.")
    empty_cluster_fraction: float = Field(0.1, ge=0, le=1, description="Clusters without an example.")
    heartbeat_seconds: float = Field(
        300.0, gt=0, description="A lease's heartbeat that stands still; well above XMAS_LEASE_TTL_SECONDS."
    )
    watch_seconds: int = Field(300, ge=1, description="How often the DAG xmas_watch looks at the runs.")


class LandingSettings(BaseSettings):
    """What starts when data lands: variables named XMAS_LANDING_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="XMAS_LANDING_", env_ignore_empty=True, frozen=True, extra="ignore")

    conf: Json[dict[str, Any]] | None = Field(
        None, description='What to ask of xmas_selection: {"recipe": "...", "budget": "15%"}. Default: nothing.'
    )
    queue: str | None = Field(None, description="URL of the SQS queue that S3 tells of _SUCCESS files.")
    connection: str | None = Field(None, description="Airflow connection of the queue. Default: the AWS_* variables.")
    poll_seconds: int = Field(20, ge=0, description="Between two looks into the queue.")
    reconcile_seconds: int = Field(900, ge=1, description="Between two looks into the store, whatever was announced.")


Settings = TypeVar("Settings", bound=BaseSettings)


def load_environment() -> Environment:
    """The settings of this process.

    Raises:
        UsageError: if a variable does not parse; the message names it.
    """
    return load_settings(Environment)


def load_settings(kind: type[Settings]) -> Settings:
    """Settings of one kind from the variables of this process.

    Raises:
        UsageError: if a variable does not parse; the message names it.
    """
    try:
        return kind()
    except ValidationError as error:
        first = error.errors()[0]
        name = kind.model_config["env_prefix"] + str(first["loc"][0]).upper()
        raise UsageError(
            f"environment variable {name}={first['input']!r}: {first['msg']}.", f"Correct or unset {name}."
        ) from error
