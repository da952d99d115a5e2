"""What would stop a run, looked for before one is started: GPUs, memory, disk, store, models, alerts.

Owns the questions; the answers come from the code that a run uses. Leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from xmas_job import pipeline
from xmas_job.alerts.alert import Alert
from xmas_job.alerts.receivers import check_urls, send
from xmas_job.commands.resolve import find_model, landed_version
from xmas_job.config import RunConfig
from xmas_job.environment import AlertSettings, Environment, load_settings
from xmas_job.errors import UsageError, XmasError
from xmas_job.fingerprint import Json
from xmas_job.sections import Hardware, Section
from xmas_job.stage_io import locate
from xmas_job.storage.probe import probe
from xmas_job.storage.roots import open_store
from xmas_job.storage.store import Store

DRIVER = Path("/proc/driver/nvidia/version")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (where torch looks for it)
LEAST_SHARED_BYTES = 512 * 2**20
"""Choice: above Docker's own 64 MB, with which workers that pass batches of images die of a bus error."""
LEAST_DISK_BYTES = 2**30
COPIES_OF_A_MODEL = 2
"""A local copy of the model, and a checkpoint of it on its way to the store."""
TRIAL_SECONDS = 300.0

Question = tuple[str, Callable[[], str]]
Opened = Callable[[], Store]
"""The store, opened: which may be what fails."""


TRIAL = Alert("trial", "", "", "Somebody looks whether alerts arrive.", "xmas-job preflight")


def preflight(environment: Environment, config: RunConfig | None, *, is_telling: bool = False) -> dict[str, Json]:
    """Ask everything, whatever fails on the way.

    Args:
        environment: where a run would work.
        config: the recipe of the run, for its device, data and models; None leaves them out.
        is_telling: also send an alert to all receivers.

    Returns:
        "checks": {"check", "is_ok", "found", "to_do"}, in the order asked; "is_ok", whether all are.
    """
    trial: list[Question] = [("alerts, sent", partial(_send_trial, environment.alert_urls))] if is_telling else []
    checks = [_ask(*question) for question in [*_questions(environment, config), *trial]]
    return {"checks": list(checks), "is_ok": all(check["is_ok"] for check in checks)}


def _questions(environment: Environment, config: RunConfig | None) -> list[Question]:
    opened = partial(open_store, environment.store_root, environment.in_haste)
    sources = pipeline.sources(config) if config else {}
    models = [name for identifier, name in sources.items() if identifier.startswith("model:")]
    return [
        ("GPU", partial(_try_kernels, _stages_on_gpus(config) if config else [])),
        (str(SHARED_MEMORY), partial(_look_at_shared_memory, SHARED_MEMORY)),
        ("scratch", partial(_look_at_scratch, environment.scratch, opened, models)),
        ("store, to read", partial(_read, opened)),
        ("store, to write", partial(_write, opened)),
        ("alerts", partial(_look_at_alerts, environment.alert_urls)),
        *((identifier, partial(_find, opened, identifier, name)) for identifier, name in sources.items()),
    ]


def _ask(name: str, question: Callable[[], str]) -> dict[str, Json]:
    try:
        return {"check": name, "is_ok": True, "found": question(), "to_do": ""}
    except XmasError as error:
        return {"check": name, "is_ok": False, "found": error.message, "to_do": error.remedy}
    except OSError as error:
        found = f"{error.filename or name}: {error.strerror or error}."
        return {"check": name, "is_ok": False, "found": found, "to_do": "See who may read and write there."}


def _stages_on_gpus(config: RunConfig) -> list[str]:
    """Stages whose section, or the training in it, names a GPU as its device."""
    sections = {node.spec.name: node.section for node in pipeline.plan(config)}
    hardware = {name: _hardware(section) for name, section in sections.items()}
    return [name for name, found in hardware.items() if found is not None and found.device == "cuda"]


def _hardware(section: Section) -> Hardware | None:
    found: Hardware | None = getattr(getattr(section, "training", section), "hardware", None)
    return found


def _try_kernels(stages: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "xmas_job.commands.kernels"],
            capture_output=True, text=True, check=False, timeout=TRIAL_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"the trial of the GPUs did not end in {TRIAL_SECONDS:.0f} s.", "See `nvidia-smi`; restart the machine."
        ) from None
    *_, last = [{}, *map(json.loads, done.stdout.splitlines())]
    if done.returncode:
        raise _trial_error(last.get("step", "starting"), done.returncode, done.stderr)
    words = f"torch {last['torch']} (CUDA {last['cuda']}), faiss {last['faiss']}"
    if last["gpus"]:
        where = "both" if last["faiss_gpus"] else "torch"
        return f"{', '.join(last['gpus'])}: {where} computed there; {words}"
    if DRIVER.exists():
        raise UsageError(
            f"this machine has an NVIDIA driver, but torch sees no GPU: {_driver()}; {words}.",
            "If the driver is older than torch's CUDA, update it; in a container, give it GPUs (--gpus all).",
        )
    if stages:
        raise UsageError(
            f"no GPU is here, and the recipe has device cuda for {', '.join(stages)}; {words}.",
            "Take a machine that has one, start the container with --gpus all, or set device cpu.",
        )
    return f"no GPU, stages run on the CPU; {words}"


def _trial_error(step: str, code: int, log: str) -> UsageError:
    cause = signal.Signals(-code).name if code < 0 else (log.strip().splitlines() or ["no word"])[-1]
    if "No module named" in cause:
        return UsageError(f"{cause}.", "Ask in the image of the stages: docker run --rm --gpus all xmas-job preflight")
    return UsageError(
        f"{step} ended with: {cause}.",
        "torch, faiss and the driver do not fit each other. Install from docker/locks/gpu.txt, and a driver that "
        "knows its CUDA.",
    )


def _driver() -> str:
    return DRIVER.read_text().splitlines()[0].partition(":")[2].strip()


def _look_at_shared_memory(folder: Path) -> str:
    size = shutil.disk_usage(folder).total
    if size < LEAST_SHARED_BYTES:
        raise UsageError(
            f"{folder} has {_gigabytes(size)}, less than {_gigabytes(LEAST_SHARED_BYTES)}.",
            "Give the container more: --shm-size, XMAS_DOCKER_SHM_SIZE, XMAS_KUBERNETES_SHM_SIZE.",
        )
    return _gigabytes(size)


def _look_at_scratch(scratch: Path, opened: Opened, models: Sequence[str]) -> str:
    folder = next(path for path in (scratch, *scratch.absolute().parents) if path.exists())
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{folder} cannot be written to.", "Point XMAS_SCRATCH elsewhere.")
    largest = max((_size_of_model(opened, name) for name in models), default=0)
    free, wanted = shutil.disk_usage(folder).free, LEAST_DISK_BYTES + COPIES_OF_A_MODEL * largest
    if free < wanted:
        raise UsageError(
            f"{folder} has {_gigabytes(free)} free, and a run may want {_gigabytes(wanted)}.",
            "Free some, or point XMAS_SCRATCH elsewhere.",
        )
    return f"{_gigabytes(free)} free, {_gigabytes(wanted)} wanted"


def _size_of_model(opened: Opened, name: str) -> int:
    """Bytes of its files; 0 if it is not there, which has a line of its own."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if folder.is_absolute():
        return 0
    home, key = locate(opened(), name)
    return sum(entry.size for entry in home.list(key))


def _read(opened: Opened) -> str:
    store = opened()
    return f"{store.uri}, landed datasets: {', '.join(store.folders('landing')) or 'none'}"


def _write(opened: Opened) -> str:
    probe(opened())
    return "creates once, reads and deletes"


def _look_at_alerts(urls: str) -> str:
    if not urls:
        return "none asked for (XMAS_ALERT_URLS)"
    load_settings(AlertSettings)  # limits that do not parse would be found by the first failure
    return f"{check_urls(urls)} receivers"


def _send_trial(urls: str) -> str:
    if not urls:
        raise UsageError("there is nobody to tell.", "Set XMAS_ALERT_URLS.")
    send(TRIAL, urls)
    return "taken by all receivers"


def _find(opened: Opened, identifier: str, name: str) -> str:
    store = opened()
    return find_model(store, name, identifier) if identifier.startswith("model:") else landed_version(store, name)


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
