"""A real Docker engine for tests, and the images that our Dockerfiles make on it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import docker

CHECKOUT = Path(__file__).parent.parent.parent
SCRIPT = CHECKOUT / "infra" / "docker_engine.sh"
JOB_IMAGE, AIRFLOW_IMAGE = "xmas-job:test", "xmas-airflow:test"


class Engine:
    """The engine of infra/docker_engine.sh, started here, or found running and then left running."""

    def __init__(self) -> None:
        self._was_running = "export" in self._script("env") and self._answers()
        try:
            self._script("base")
        except subprocess.CalledProcessError as error:
            reason = f"no Docker engine can be started here: {error.stderr.strip()[-300:]}"
            assert os.environ.get("CI") != "true", reason
            pytest.skip(reason)

    @property
    def host(self) -> str:
        words = self._script("env").split()
        return next(word.partition("=")[2] for word in words if word.startswith("DOCKER_HOST="))

    def client(self) -> Any:
        return docker.DockerClient(self.host)

    def build(self, dockerfile: str, image: str, **arguments: str) -> None:
        arguments = {"BASE_IMAGE": "xmas-base:test", "GIT_SHA": "unknown", **arguments}
        options = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        command = ["/usr/bin/docker", "build", "--quiet", "--network", "host", *options, "--file", dockerfile]
        environment = {**os.environ, "DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "1"}
        done = subprocess.run(
            [*command, "--tag", image, "."], cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]

    def restart(self, *, fake_gpu: bool) -> None:
        """With FAKE_GPU=1 it accepts a request for GPUs, and gives none."""
        self._script("stop")
        self._script("start", FAKE_GPU="1" if fake_gpu else "0")

    def stop(self) -> None:
        if not self._was_running:
            self._script("stop")

    def _answers(self) -> bool:
        try:
            return bool(self.client().ping())
        except docker.errors.DockerException:
            return False

    def _script(self, command: str, **variables: str) -> str:
        environment = {**os.environ, **variables}
        bash = shutil.which("bash") or "bash"
        # Its daemon lives on with what it inherits, so its output goes into no pipe of ours.
        done = subprocess.run([bash, str(SCRIPT), command], env=environment, capture_output=True, text=True, check=True)
        return done.stdout
