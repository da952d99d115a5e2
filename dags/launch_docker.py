"""Launcher `docker`: a container of the job image for every unit, which ends when the task ends.

Owns what a container gets, and that none stays. What a stage does with it is the stage's.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk.definitions.context import Context
from airflow.sdk.definitions.xcom_arg import XComArg
from airflow.sdk.exceptions import AirflowException
from docker.errors import APIError, ImageNotFound
from docker.types import DeviceRequest, LogConfig, Mount, Ulimit
from docker.utils import parse_bytes
from docker.utils.socket import STDOUT, frames_iter_no_tty
from gpu_locks import some_gpus
from launching import Unit, num_gpus, outcome_of, run_id_of, show, stage_variables, start_unit, task_settings, unit_name
from left_containers import GONE, remove, remove_earlier, remove_forgotten

from xmas_job.commands.process import EXIT_WITH_PARENT, error_of_process, event_of, result_of_process
from xmas_job.environment import DockerSettings, load_environment, load_settings
from xmas_job.errors import TryAgainError, UsageError, XmasError
from xmas_job.pipeline import StageSpec

SCRATCH = "/scratch"
"""XMAS_SCRATCH of the job image, and all that a stage may write to beside the store."""
REVISION = "org.opencontainers.image.revision"
LOG_BYTES = "10m"
"""What the engine keeps of a container's log while it lives; all of it goes into the task's."""


def docker(spec: StageSpec, units: XComArg) -> XComArg:
    """The task mapped over the units."""
    settings = load_settings(DockerSettings)
    build = StageContainer.partial(
        **task_settings(spec),
        num_gpus=num_gpus(spec),
        image=settings.image,
        docker_conn_id=settings.connection,
        force_pull=settings.pull,
        user=settings.user,
        network_mode=settings.network,
        ipc_mode=settings.ipc,
        shm_size=parse_bytes(settings.shm_size),
        mem_limit=settings.memory or f"{spec.resources.memory_gb}g",
        mount_tmp_dir=False,
        auto_remove="force",
    )
    return build.expand(unit=units).output


class StageContainer(DockerOperator):
    """One unit in a container.

    `DockerOperator` cannot make the root read-only, and tells neither an exit code nor stdout from stderr. So this runs
    the container itself. Its standard input is held by the task, and ends the stage when the task is gone.
    """

    template_fields = (*DockerOperator.template_fields, "unit")

    def __init__(self, *, unit: Unit, num_gpus: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.unit = unit
        self.num_gpus = num_gpus

    def execute(self, context: Context) -> str:
        """Build the unit; the URI of its artifact."""
        self.command = start_unit(self.unit, context)
        store, run = load_environment().store_root, run_id_of(context)
        # A run id is unique in its store only; an engine may serve several.
        store_label = {"xmas_job.store": store}
        unit_labels = {**store_label, "xmas_job.run": run, "xmas_job.stage": unit_name(self.unit)}
        self.labels = {**unit_labels, "xmas_job.try": str(context["ti"].try_number)}
        try:
            with self._engine_errors():
                self._connect()
                remove_earlier(self.cli, unit_labels)
                remove_forgotten(self.cli, store_label)
                if not self.force_pull:
                    self.cli.inspect_image(self.image)
                with self._device_requests() as self.device_requests:
                    return str(super().execute(context))
        except XmasError as error:
            raise outcome_of(error) from None

    def on_kill(self) -> None:
        """Remove the container: what the stage finished is in the store, and the rest is for the next try."""
        if self.container:
            remove(self.cli, self.container["Id"])

    def _run_image(self) -> str:
        self._check_revision()
        self.container = self._create()
        try:
            stdout, log = self._follow(self.container["Id"])
            state = self.cli.inspect_container(self.container["Id"])["State"]
        finally:
            self.on_kill()
        code = state["ExitCode"]
        if code and state["OOMKilled"]:
            raise TryAgainError(
                f"{unit_name(self.unit)} took more memory than its container has: {self.mem_limit}.",
                "Set XMAS_DOCKER_MEMORY.",
            )
        if code:
            raise error_of_process(unit_name(self.unit), code, stdout, "\n".join(log))
        return str(result_of_process(stdout)["artifact"])

    def _create(self) -> dict[str, Any]:
        settings = load_settings(DockerSettings)
        host_config = self.cli.create_host_config(
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            mounts=[_scratch(settings), *map(_mount, settings.mounts.split())],
            network_mode=self.network_mode,
            shm_size=self.shm_size,
            ipc_mode=self.ipc_mode,
            mem_limit=self.mem_limit,
            ulimits=[_ulimit(limit) for limit in settings.ulimits.split()],
            device_requests=self.device_requests,
            log_config=LogConfig(config={"max-size": LOG_BYTES}),
        )
        # Secrets are read here, by the worker: what is an argument of the operator is written into Airflow's database.
        container: dict[str, Any] = self.cli.create_container(
            self.image,
            command=self.command,
            environment={**stage_variables(), EXIT_WITH_PARENT: "1", "XMAS_LOG_FORMAT": "json"},
            user=self.user,
            labels=self.labels,
            host_config=host_config,
            stdin_open=True,
        )
        return container

    def _follow(self, container: str) -> tuple[str, Sequence[str]]:
        """Start it, and show its log until it ends; what it printed on stdout, and the last lines of its log."""
        held = self.cli.attach_socket(container, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        self.cli.start(container)
        stdout, rest = b"", b""
        lines: deque[str] = deque(maxlen=20)
        for stream, data in frames_iter_no_tty(held):
            if stream == STDOUT:
                stdout += data
                continue
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                lines.append(line.decode(errors="replace"))
                show(event_of(lines[-1]))
        held.close()
        self.cli.wait(container)
        return stdout.decode(errors="replace"), lines

    def _connect(self) -> None:
        try:
            self.cli.ping()
        except AirflowException:
            raise TryAgainError(
                f"no Docker engine answers at {self.docker_url}.", "Start it, or correct DOCKER_HOST."
            ) from None

    def _check_revision(self) -> None:
        """Refuse an image of another commit: it would look for artifacts at other addresses than `reuse` does."""
        labels = self.cli.inspect_image(self.image)["Config"]["Labels"] or {}
        image, airflow = labels.get(REVISION), os.environ.get("XMAS_GIT_SHA")
        if {image, airflow}.isdisjoint({None, "unknown"}) and image != airflow:
            raise UsageError(
                f"the image {self.image!r} is of commit {image}, and this Airflow of {airflow}.",
                "Build both from one commit.",
            )

    @contextmanager
    def _device_requests(self) -> Iterator[list[DeviceRequest]]:
        settings = load_settings(DockerSettings)
        asked = {"driver": "nvidia", "capabilities": [["gpu"]]}
        if not self.num_gpus:
            yield []
        elif not settings.gpu_ids:
            yield [DeviceRequest(count=self.num_gpus, **asked)]
        else:
            with some_gpus(settings.gpu_ids.split(), self.num_gpus, settings.gpu_locks) as held:
                yield [DeviceRequest(device_ids=held, **asked)]

    @contextmanager
    def _engine_errors(self) -> Iterator[None]:
        """What the engine refuses as an error of ours."""
        try:
            yield
        except ImageNotFound as error:
            raise UsageError(
                f"the engine has no image {self.image!r}: {error.explanation}.",
                "Build it there (docker build -f docker/job.Dockerfile), name another by XMAS_DOCKER_IMAGE, or have it "
                "pulled by XMAS_DOCKER_PULL=true.",
            ) from error
        except APIError as error:
            said = str(error.explanation or error)
            if "device driver" in said or "nvidia" in said:
                raise UsageError(
                    f"the engine gives no GPU: {said}.",
                    "Install the NVIDIA driver and container toolkit there; or, where a CPU will do, set "
                    "XMAS_MAX_GPUS=0. `xmas-job preflight` tells more.",
                ) from error
            if error.is_client_error() and error.status_code not in GONE:
                raise UsageError(f"the engine refuses the container: {said}.", "See XMAS_DOCKER_*.") from error
            raise TryAgainError(f"the container was lost: {said}.", "What the stage finished is kept.") from error


def _scratch(settings: DockerSettings) -> Mount:
    return Mount(SCRATCH, settings.scratch, type="bind" if settings.scratch else "volume")


def _mount(text: str) -> Mount:
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    return Mount(target or source, source, type="bind", read_only=mode == "ro")


def _ulimit(text: str) -> Ulimit:
    name, _, limits = text.partition("=")
    soft, _, hard = limits.partition(":")
    return Ulimit(name=name, soft=int(soft), hard=int(hard or soft))
