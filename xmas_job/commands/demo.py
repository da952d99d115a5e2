"""Landing the demo: files and models go into the store the way any team's would."""

from __future__ import annotations

from pathlib import Path

from xmas_job.entrypoints import load_entrypoint
from xmas_job.environment import Environment
from xmas_job.fingerprint import Json
from xmas_job.logs import get_logger
from xmas_job.storage.landing import SUCCESS
from xmas_job.storage.roots import open_store
from xmas_job.storage.scratch import scratch_folder
from xmas_job.storage.store import Store

logger = get_logger(__name__)

DATASETS = {"demo": "xmas_job.demo.pool:write_pool", "demo_heldout": "xmas_job.demo.pool:write_heldout"}
MODELS = ("demo-proxy", "demo-target")
ENCODER = "models/demo-clip"


def land(environment: Environment) -> dict[str, Json]:
    """Land pool, held-out set and models under landing/ and models/; what is there already stays as it is."""
    store = open_store(environment.store_root)
    with scratch_folder(environment.scratch) as scratch:
        landed = [_land(store, f"landing/{name}/v1", scratch / name, write) for name, write in DATASETS.items()]
        if not all(store.exists(f"models/{name}/{SUCCESS}") for name in MODELS):
            logger.info("pre-training the demo's models, about a minute")
            load_entrypoint("xmas_job.demo.models:write_models")(scratch / "models")
        landed += [_land(store, f"models/{name}", scratch / "models" / name) for name in MODELS]
        landed.append(_land(store, ENCODER, scratch / "encoder", "xmas_job.demo.encoder:write_encoder"))
    return {"store": store.uri, "landed": landed}


def _land(store: Store, prefix: str, folder: Path, writer: str | None = None) -> str:
    """Fill a folder and move its files to `prefix`, the marker last: a reader sees all of it or none."""
    if not store.exists(f"{prefix}/{SUCCESS}"):
        logger.info("landing", prefix=prefix)
        if writer:
            folder.mkdir()
            load_entrypoint(writer)(folder)
        for path in sorted(found for found in folder.rglob("*") if found.is_file()):
            store.upload(path, f"{prefix}/{path.relative_to(folder).as_posix()}")
        store.create(f"{prefix}/{SUCCESS}", b"")
    return prefix
