"""S3 servers for tests: moto in a process of its own, and buckets on any server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property

import boto3
from botocore.config import Config

KEYS = {"AWS_ACCESS_KEY_ID": "tested", "AWS_SECRET_ACCESS_KEY": "tested-secret"}


@dataclass(frozen=True)
class S3Server:
    """A server that runs, and the variables with which xmas_job reaches it and nothing else."""

    endpoint: str
    keys: Mapping[str, str] = field(default_factory=lambda: KEYS)
    checksums: str = "when_supported"

    @property
    def variables(self) -> dict[str, str]:
        return {
            **self.keys,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "XMAS_S3_ENDPOINT": self.endpoint,
            "XMAS_S3_REGION": "us-east-1",
            "XMAS_S3_CHECKSUMS": self.checksums,
        }

    @cached_property
    def bucket(self) -> str:
        """A bucket for all tests; each takes a prefix of its own."""
        name = f"bucket-{uuid.uuid4().hex}"
        client = boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.keys["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.keys["AWS_SECRET_ACCESS_KEY"],
            config=Config(s3={"addressing_style": "path"}),
        )
        client.create_bucket(Bucket=name)
        return name

    def new_root(self) -> str:
        """Root of a new empty store."""
        return f"s3://{self.bucket}/some prefix/{uuid.uuid4().hex}"


@dataclass(frozen=True)
class SilentServer:
    """One that lets clients connect, and then says nothing."""

    listener: socket.socket

    @property
    def variables(self) -> dict[str, str]:
        return S3Server(f"http://127.0.0.1:{self.listener.getsockname()[1]}").variables

    def num_calls(self) -> int:
        """Connections since it was asked before."""
        count = 0
        with suppress(BlockingIOError):
            while self.listener.accept():
                count += 1
        return count


@contextmanager
def silent_server() -> Iterator[SilentServer]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        yield SilentServer(listener)


@contextmanager
def moto_server() -> Iterator[S3Server]:
    """Moto on a free port; ends with the block, or with this process."""
    command = [sys.executable, "-m", "tests.s3_servers"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **pipes, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield S3Server(process.stdout.readline().strip())
        process.stdin.close()


def _serve() -> None:
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 (a second to import, only in the server's process)

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    print(f"http://{host}:{port}", flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    _serve()
