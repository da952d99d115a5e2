"""Launcher `kubernetes`: a pod of the job image for every unit, waited for in the triggerer, found again after a crash.

Owns what a pod gets. Its rights to the store come from a service account or a Secret, never from this worker.
"""

from __future__ import annotations

import json
import re
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.pod_generator import make_safe_label_value
from airflow.sdk.definitions.context import Context
from airflow.sdk.definitions.xcom_arg import XComArg
from airflow.sdk.exceptions import AirflowException
from kubernetes.client import models as k8s
from launching import Unit, num_gpus, outcome_of, run_id_of, stage_variables, start_unit, task_settings, unit_name

from xmas_job.commands.process import error_of_process
from xmas_job.environment import KubernetesSettings, load_settings
from xmas_job.errors import TryAgainError, UsageError, XmasError
from xmas_job.pipeline import StageSpec

SECRET = re.compile(r"AWS_(CONTAINER_.*|.*(KEY|SECRET|TOKEN|PASSWORD).*)")
"""Names of variables that are not written into a pod, where all who may look at pods would read them, and where they
would hide the rights that the cluster gives it."""
STARTUP_SECONDS = 1800
"""For a node with GPUs to be added to the cluster, and the image to be pulled."""


def kubernetes(spec: StageSpec, units: XComArg) -> XComArg:
    """The task mapped over the units."""
    settings = load_settings(KubernetesSettings)
    build = StagePod.partial(
        **task_settings(spec),
        kubernetes_conn_id=settings.connection,
        namespace=settings.namespace,
        image=settings.image,
        service_account_name=settings.service_account,
        env_from=_env_from(settings),
        container_resources=_resources(spec),
        volumes=[
            k8s.V1Volume(name="shm", empty_dir={"medium": "Memory", "sizeLimit": settings.shm_size}),
            k8s.V1Volume(name="scratch", empty_dir={"sizeLimit": settings.scratch_size}),
        ],
        volume_mounts=[
            k8s.V1VolumeMount(name="shm", mount_path="/dev/shm"),  # noqa: S108 (where torch looks for it)
            k8s.V1VolumeMount(name="scratch", mount_path="/scratch"),
        ],
        container_security_context=k8s.V1SecurityContext(
            read_only_root_filesystem=True,
            run_as_non_root=True,
            allow_privilege_escalation=False,
            capabilities=k8s.V1Capabilities(drop=["ALL"]),
        ),
        deferrable=True,
        durable=True,
        startup_timeout_seconds=STARTUP_SECONDS,
        termination_message_policy="FallbackToLogsOnError",
        log_pod_spec_on_failure=False,
        on_finish_action="delete_pod",
    )
    return build.expand(unit=units).output


class StagePod(KubernetesPodOperator):
    """One unit in a pod. It gives no URI: what is built is found in the store."""

    template_fields = (*KubernetesPodOperator.template_fields, "unit")

    def __init__(self, *, unit: Unit, **settings: Any) -> None:
        super().__init__(**settings)
        self.unit = unit

    def build_pod_request_obj(self, context: Context | None = None, *, dry_run: bool = False) -> k8s.V1Pod:
        """The pod that the cluster is asked for."""
        assert context is not None
        self.arguments = start_unit(self.unit, context)
        variables = {name: value for name, value in stage_variables().items() if not SECRET.fullmatch(name)}
        self.env_vars = {**variables, "XMAS_LOG_FORMAT": "json"}
        labels = {"run": run_id_of(context), "stage": unit_name(self.unit), "try": str(context["ti"].try_number)}
        self.labels = {f"xmas_job.{name}": make_safe_label_value(value) for name, value in labels.items()}
        return super().build_pod_request_obj(context, dry_run=dry_run)

    def trigger_reentry(self, context: Context, event: dict[str, Any]) -> Any:
        """Go on in a new process, once the pod has ended."""
        start_unit(self.unit, context)
        return super().trigger_reentry(context, event)

    def cleanup(self, pod: k8s.V1Pod, remote_pod: k8s.V1Pod, *rest: Any, **named: Any) -> None:
        """Delete the pod; if it failed, fail as its stage says."""
        try:
            super().cleanup(pod, remote_pod, *rest, **named)
        except AirflowException:
            error = self._error(remote_pod)
            if error is None:
                raise
            raise outcome_of(error) from None

    def _error(self, pod: k8s.V1Pod) -> XmasError | None:
        statuses = {status.name: status.state for status in pod.status.container_statuses or []}
        state = statuses.get(self.base_container_name)
        if state is None:
            return None
        name = unit_name(self.unit)
        if state.waiting and state.waiting.reason in {"ErrImagePull", "ImagePullBackOff", "InvalidImageName"}:
            return UsageError(
                f"the cluster has no image {self.image!r}: {state.waiting.message}.",
                "Push it to its registry, or name another by XMAS_KUBERNETES_IMAGE.",
            )
        if state.terminated is None:
            return None
        if state.terminated.reason == "OOMKilled":
            return TryAgainError(f"{name} took more memory than its pod has.", "Give its stage more.")
        tail = state.terminated.message or ""
        said = [line for line in tail.splitlines() if _is_error(line)]
        return error_of_process(name, state.terminated.exit_code, said[-1] if said else "", tail)


def _is_error(line: str) -> bool:
    """Whether it is the last line that `xmas-job` prints, an error as JSON; a pod mixes its log with it."""
    try:
        found = json.loads(line)
    except ValueError:
        return False
    return isinstance(found, dict) and {"error", "remedy", "exit_code"} <= found.keys()


def _resources(spec: StageSpec) -> k8s.V1ResourceRequirements:
    memory = {"memory": f"{spec.resources.memory_gb}Gi"}
    gpus = {"nvidia.com/gpu": str(num_gpus(spec))} if num_gpus(spec) else {}
    return k8s.V1ResourceRequirements(requests=memory, limits={**memory, **gpus})


def _env_from(settings: KubernetesSettings) -> list[k8s.V1EnvFromSource]:
    if settings.secret is None:
        return []
    return [k8s.V1EnvFromSource(secret_ref=k8s.V1SecretEnvSource(name=settings.secret))]
