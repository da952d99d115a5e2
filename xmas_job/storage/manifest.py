"""The manifest of a published selection: what it is, and the digests by which anybody can check it.

Owns its form (the JSON Schema `manifest.schema.json` is made from it) and its self-check. It holds only what the
inputs determine, so equal inputs give equal bytes; times, versions and costs are in provenance.json.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from xmas_job.errors import BadDataError
from xmas_job.fingerprint import canonical_json, digest_of

MANIFEST = "manifest.json"
REPAIR = "In a store, `xmas-job run` with the same request publishes it again; a copy has to be copied again."


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_serialization_defaults_required=True)


class Snapshot(_Part):
    """The landed data that the pool was made of."""

    id: str = Field(description="Digest of the ingested versions' contents, in order.")
    datasets: tuple[str, ...] = Field(description="name@version, in order.")
    num_examples: int = Field(description="Examples in the pool.")
    num_quarantined: int
    num_duplicates: int
    num_excluded: int


class Request(_Part):
    """What was asked for."""

    budget: str


class Resolved(_Part):
    """What the request came to."""

    num_examples: int
    fraction: float = Field(description="Of the eligible pool.")


class Method(_Part):
    """How the subset was chosen."""

    name: str
    params: dict[str, bool | int | float | str]
    seed: int
    text_only: Literal["cluster", "proportional", "exclude"]


class Proxy(_Part):
    """The proxy's checkpoints whose signals were used."""

    digest: str


class Stratum(_Part):
    """Share of a stratum before and after."""

    name: Literal["image", "text"]
    num_pool: int
    num_selected: int


class ManifestFile(_Part):
    """A published file."""

    path: str
    sha256: str
    bytes: int
    rows: int | None


class Check(_Part):
    """A check that had to pass before anything was published."""

    name: str
    status: Literal["passed", "failed"]
    value: float
    limit: float


class Manifest(_Part):
    """`manifest.json`. `selection_id` is the digest (32 hex digits) of everything else in it."""

    schema_version: Literal[1] = 1
    selection_id: str = ""
    snapshot: Snapshot
    request: Request
    resolved: Resolved
    method: Method
    proxy: Proxy | None
    strata: tuple[Stratum, ...]
    files: tuple[ManifestFile, ...]
    checks: tuple[Check, ...]

    def sealed(self) -> Manifest:
        """The same manifest with its id filled in."""
        return self.model_copy(update={"selection_id": self.compute_id()})

    def compute_id(self) -> str:
        """The id that follows from the rest of the manifest."""
        return digest_of(self.model_dump(mode="json", exclude={"selection_id"}))[:32]

    def to_bytes(self) -> bytes:
        """As published: canonical JSON."""
        return canonical_json(self.model_dump(mode="json")) + b"\n"


def parse_manifest(data: bytes, *, where: str) -> Manifest:
    """A manifest from its bytes, its id checked.

    Raises:
        BadDataError: if it is no manifest, or was edited after it was published.
    """
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BadDataError(f"{where} is no manifest: {field}: {first['msg']}.", REPAIR) from None
    if manifest.compute_id() != manifest.selection_id or manifest.to_bytes() != data:
        raise BadDataError(f"{where} was edited: its content does not give its selection_id.", REPAIR)
    return manifest


def verify_files(manifest: Manifest, read: Callable[[str], bytes], *, where: str) -> int:
    """Check every file of a selection against the manifest; the number of files checked.

    Args:
        manifest: says what the files must be.
        read: bytes of the file of that path; raises FileNotFoundError.
        where: the selection, for messages.

    Raises:
        BadDataError: naming the first file that is gone or differs.
    """
    for file in manifest.files:
        try:
            data = read(file.path)
        except FileNotFoundError:
            raise BadDataError(f"{where}/{file.path} is gone.", REPAIR) from None
        if len(data) != file.bytes or hashlib.sha256(data).hexdigest() != file.sha256:
            raise BadDataError(f"{where}/{file.path} is not what the manifest says.", REPAIR)
    return len(manifest.files)
