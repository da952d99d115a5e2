"""The client that talks to S3: endpoint, region, addressing, checksums, retries. No keys are read or held here.

Credentials are botocore's own business: its providers renew what expires, so a run may outlive its keys.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from xmas_job.environment import Environment
from xmas_job.errors import UsageError
from xmas_job.storage.s3_errors import explained

CONNECT_SECONDS = 5.0


def make_client(environment: Environment, uri: str) -> Any:
    """A thread-safe client for the store at `uri`.

    Raises:
        UsageError: if the endpoint is no URL, or the profile is not there.
    """
    _check_endpoint(environment.s3_endpoint)
    addressing = environment.s3_addressing
    if addressing == "auto" and environment.s3_endpoint:
        addressing = "path"  # few stores of one's own have a host name a bucket
    config = Config(
        signature_version="s3v4",
        retries={"mode": "standard", "total_max_attempts": environment.s3_attempts},
        connect_timeout=min(CONNECT_SECONDS, environment.s3_timeout_seconds),
        read_timeout=environment.s3_timeout_seconds,
        max_pool_connections=max(32, 2 * environment.workers),
        request_checksum_calculation=environment.s3_checksums,
        response_checksum_validation=environment.s3_checksums,
        s3={"addressing_style": addressing},
    )
    with explained(uri):
        # A session of its own: the default one of the process is not made for several threads.
        return boto3.session.Session().client(
            "s3",
            endpoint_url=environment.s3_endpoint or None,
            region_name=environment.s3_region or None,
            config=config,
        )


def write_arguments(environment: Environment) -> dict[str, str]:
    """What every write says of its encryption at rest."""
    if environment.s3_kms_key:
        return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": environment.s3_kms_key}
    return {} if environment.s3_sse == "none" else {"ServerSideEncryption": environment.s3_sse}


def _check_endpoint(endpoint: str) -> None:
    parts = urlsplit(endpoint)
    if endpoint and (parts.scheme not in {"http", "https"} or not parts.hostname or parts.username is not None):
        raise UsageError(
            "XMAS_S3_ENDPOINT is no URL like https://host:port.",  # the value may hold a password
            "Correct it; credentials go into the AWS_* variables or a profile.",
        )
