"""What S3 and its client answer, as the errors a person meets: what is wrong, at which address, and what to do.

Owns which answer is a wrong request (exit code 2) and which is worth another try (75). Secrets are in none of them:
only the error's code, its HTTP status and our own address are told.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from botocore import exceptions as botocore_errors
from s3transfer.exceptions import RetriesExceededError
from urllib3.exceptions import HTTPError as UnwrappedError

from xmas_job.errors import TryAgainError, UsageError, XmasError

NOT_THERE = frozenset({"404", "NoSuchKey", "NotFound", "KeyTooLongError"})
AGAIN = "Give the same command again: what was finished is kept."
PERMISSIONS = (
    "They need s3:ListBucket on the bucket, and s3:GetObject, s3:PutObject, s3:DeleteObject and "
    "s3:AbortMultipartUpload under the root; with a KMS key also kms:GenerateDataKey and kms:Decrypt."
)
RENEW = "Renew them (aws sso login, a role)."
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"})
_REMEDIES = (
    ({"NoSuchBucket"}, "Create the bucket, or correct XMAS_STORE_ROOT or XMAS_S3_ENDPOINT."),
    (
        {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidSecurity"},
        "The store does not know these credentials: check AWS_PROFILE, the AWS_* variables and XMAS_S3_ENDPOINT.",
    ),
    ({"AccessDenied", "AllAccessDisabled", "AccountProblem"}, f"The credentials may not do that. {PERMISSIONS}"),
    ({"403", "Forbidden"}, f"The credentials may not do that, or are none that the store knows. {PERMISSIONS}"),
    (
        {"PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"},
        "The bucket lies in another region: set XMAS_S3_REGION.",
    ),
    ({"RequestTimeTooSkewed"}, "Set this machine's clock (NTP): signatures hold for 15 minutes."),
)
_HTTP_TOO_EARLY = frozenset({408, 409, 412, 425, 429})


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Raise what a call for `uri` meets as FileNotFoundError, UsageError or TryAgainError.

    Beside the client's own errors that is what breaks below it, in the middle of an answer, and reaches us unwrapped.
    """
    try:
        yield
    except botocore_errors.ClientError as error:
        raise _of_answer(error, uri) from error
    except RetriesExceededError as error:
        raise _unreachable(uri, error.last_exception) from error
    except botocore_errors.BotoCoreError as error:
        raise _of_client(error, uri) from error
    except UnwrappedError as error:
        raise _unreachable(uri, error) from error
    except OSError as error:
        # Of the network, below the client: a body that breaks in mid-stream. Disk errors name their file.
        if error.filename is not None or error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise
        raise _unreachable(uri, error) from error


def code_of(error: botocore_errors.ClientError) -> tuple[str, int]:
    """Error code and HTTP status of an answer."""
    answer: dict[str, Any] = error.response
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return str(answer.get("Error", {}).get("Code", status)), status


def _of_answer(error: botocore_errors.ClientError, uri: str) -> Exception:
    code, status = code_of(error)
    told = f"{uri}: the store answered {code}" + (f" (HTTP {status})" if str(status) != code else "")
    if code in NOT_THERE:
        return FileNotFoundError(errno.ENOENT, "no such object", uri)
    if status in _HTTP_TOO_EARLY or (status >= 500 and status != 501):
        return TryAgainError(f"{told}.", f"The store is busy or ill. {AGAIN}")
    if code in _EXPIRED:
        return TryAgainError(f"{told}: the credentials have expired.", f"{RENEW} {AGAIN}")
    if code == "400":  # of HEAD, whose answer has no body: that is how AWS tells it of expired keys
        return TryAgainError(
            f"{told} and no reason: the credentials have expired, or the bucket lies in another region.",
            f"{RENEW} Or set XMAS_S3_REGION. {AGAIN}",
        )
    return UsageError(f"{told}.", _remedy(code))


def _remedy(code: str) -> str:
    if code.startswith("KMS"):
        return "Check XMAS_S3_KMS_KEY: the key must exist, be enabled, and be open to these credentials."
    for codes, remedy in _REMEDIES:
        if code in codes:
            return remedy
    return "Check XMAS_STORE_ROOT and the XMAS_S3_* variables; see README, The store."


def _of_client(error: botocore_errors.BotoCoreError, uri: str) -> XmasError:
    match error:
        case botocore_errors.NoCredentialsError() | botocore_errors.PartialCredentialsError():
            return UsageError(
                f"{uri}: there are no whole credentials for the store.", "Set AWS_PROFILE, or give this machine a role."
            )
        case botocore_errors.CredentialRetrievalError() | botocore_errors.MetadataRetrievalError():
            return TryAgainError(f"{uri}: the credentials' own source gave none.", f"Check it. {AGAIN}")
        case botocore_errors.SSOError() | botocore_errors.TokenRetrievalError():
            return TryAgainError(f"{uri}: the sign-on has expired.", f"aws sso login. {AGAIN}")
        case botocore_errors.SSLError():
            return UsageError(f"{uri}: the store's certificate is not trusted.", "Set AWS_CA_BUNDLE to its authority.")
        case (
            botocore_errors.ConnectionError()
            | botocore_errors.HTTPClientError()
            | botocore_errors.IncompleteReadError()
        ):
            return _unreachable(uri, error)
        case _:
            kind = type(error).__name__
            return UsageError(f"{uri}: the S3 client refuses ({kind}: {error}).", "Check the XMAS_S3_* variables.")


def _unreachable(uri: str, error: BaseException) -> TryAgainError:
    return TryAgainError(
        f"{uri}: the store cannot be reached ({type(error).__name__}).",
        f"Check XMAS_S3_ENDPOINT, the network and the store itself. {AGAIN}",
    )
