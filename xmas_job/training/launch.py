"""How a training becomes processes: in this one, or one a device on one or several machines, by torch's elastic agent.

Owns starting, stopping and what is told of a process that died. Refuses to own what the processes do.
"""

from __future__ import annotations

import contextvars
import ctypes
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import structlog
import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from xmas_job.config import TrainingConfig
from xmas_job.entrypoints import load_entrypoint
from xmas_job.environment import Environment
from xmas_job.errors import NothingToDoError, TryAgainError, UsageError, XmasError, error_of
from xmas_job.logs import configure_logs, get_logger
from xmas_job.sections import Section
from xmas_job.stage_io import Metrics, StageIO
from xmas_job.storage.output import Output
from xmas_job.storage.record import Artifact, StoredFile
from xmas_job.storage.roots import open_store
from xmas_job.training.resume import Layout, ResumeState, ResumeStates
from xmas_job.training.schedule import accumulation_steps
from xmas_job.training.settings import Execution

logger = get_logger(__name__)

NUM_LINES = 20
"""Of a process that died: the last lines of its log, for its error."""
KILL_SECONDS = 5
"""What the other processes get once one has failed: they wait for it in vain."""
LOADERS_A_GPU = 4
PR_SET_PDEATHSIG = 1
LOOPBACK = ("127.0.0.1", "localhost")


def launch(entrypoint: str, section: Section, io: StageIO, training: TrainingConfig) -> Metrics:
    """Call "module:function" with (section, io, execution) in as many processes as there are devices.

    It goes on from the furthest state that an earlier attempt left, and clears the states away with the commit.

    Raises:
        UsageError: batches that do not divide, or a state of another number of processes; before any work.
        NothingToDoError: this machine only helped.
        TryAgainError: it was stopped, or a process was killed; a state was kept, or an older one is there.
        XmasError: what a process raised.
    """
    layout = layout_of(io.environment, training)
    _require_possible(training, layout)
    if io.environment.node_rank:
        _launch_processes(_Job(entrypoint, section, training, layout, _without_store(io), None), io)
        raise NothingToDoError("this machine's part of the training is done.", "Machine 0 commits it.")
    states = ResumeStates(io.store, io.output, io.environment.resume_keep)
    start = states.newest(layout)
    if start is not None:
        logger.info("training goes on", step=start.step)
        io.output.take_over(start.finished)
    io.output.after_commit.append(states.forget)
    if layout.is_alone:
        with stop_requests() as should_stop:
            execution = execution_of(io, training, layout, states, start, should_stop)
            metrics: Metrics = load_entrypoint(entrypoint)(section, io, execution)
        _end_process_group()  # ZeRO has one for a single process too
        return metrics
    return _launch_processes(_Job(entrypoint, section, training, layout, _without_store(io), start), io)


def layout_of(environment: Environment, training: TrainingConfig) -> Layout:
    """Processes of all machines, and the ZeRO stage: 2 for several processes unless something else is asked for."""
    on_cuda = training.hardware.device == "cuda"
    each = environment.processes or (max(torch.cuda.device_count(), 1) if on_cuda else 1)
    num_processes = each * environment.num_nodes
    stage = environment.zero_stage
    return Layout(num_processes, (2 if num_processes > 1 else 0) if stage is None else stage)


def _require_possible(training: TrainingConfig, layout: Layout) -> None:
    accumulation_steps(training.global_batch, training.per_device_batch, layout.num_processes)
    if layout.zero_stage and find_spec("deepspeed") is None:
        raise UsageError(
            f"ZeRO stage {layout.zero_stage} needs deepspeed, which is not installed.",
            "Install it (pip install 'xmas-job[gpu]'), or set XMAS_ZERO_STAGE=0.",
        )


def execution_of(
    io: StageIO,
    training: TrainingConfig,
    layout: Layout,
    states: ResumeStates,
    start: ResumeState | None,
    should_stop: Callable[[], bool],
) -> Execution:
    """What the environment says of how a training runs."""
    environment = io.environment
    wanted, on_cuda = environment.activation_checkpointing, training.hardware.device == "cuda"
    return Execution(
        layout=layout,
        scratch=io.output.scratch / "trainer",
        num_loaders=(LOADERS_A_GPU if on_cuda else 0) if environment.loaders is None else environment.loaders,
        activation_checkpointing=on_cuda if wanted is None else wanted,
        states=states,
        start=start,
        save_seconds=60 * environment.resume_minutes,
        save_steps=environment.resume_steps,
        event_seconds=environment.progress_seconds,
        should_stop=should_stop,
        min_rate_fraction=environment.min_rate_fraction,
        slow_seconds=60 * environment.slow_minutes,
    )


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM came, asked for as often as one likes; the signal itself ends nothing meanwhile."""
    came = threading.Event()
    with _on_sigterm(came.set):
        yield came.is_set


@contextmanager
def _on_sigterm(act: Callable[[], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = signal.signal(signal.SIGTERM, lambda *_: act())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# --- several processes ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """What a process is sent."""

    entrypoint: str
    section: Section
    training: TrainingConfig
    layout: Layout
    io: StageIO
    start: ResumeState | None
    context: Mapping[str, Any] | None = None

    @property
    def folder(self) -> Path:
        """Shared by the processes of one machine: notes of errors, and the request to stop."""
        return self.io.output.scratch


def _launch_processes(job: _Job, io: StageIO) -> Metrics:
    for name in ("torch.distributed.elastic", "torch.multiprocessing"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # `_error_of` tells it once
    receiver, sender = Pipe(duplex=False)
    listen = partial(contextvars.copy_context().run, _listen, receiver, io.progress)  # events name run and stage
    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    job = replace(job, context=structlog.contextvars.get_contextvars())
    try:
        with _on_sigterm((job.folder / "stop").touch):
            results = elastic_launch(_launch_config(job, io.environment), _work)(job, sender)
    except ChildFailedError as error:
        raise _error_of(job, error) from error
    finally:
        sender.close()
        listener.join()
    metrics, files = results[min(results)]
    io.output.take_over(files)
    return dict(metrics)


def _launch_config(job: _Job, environment: Environment) -> LaunchConfig:
    is_one = environment.num_nodes == 1
    on_loopback = is_one or environment.rendezvous.partition(":")[0] in LOOPBACK
    if job.training.hardware.device == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        if on_loopback:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return LaunchConfig(
        min_nodes=environment.num_nodes,
        max_nodes=environment.num_nodes,
        nproc_per_node=job.layout.num_processes // environment.num_nodes,
        run_id=job.io.output.address.replace("/", "-"),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0" if is_one else environment.rendezvous,
        rdzv_configs={} if is_one else {"is_host": environment.node_rank == 0},
        local_addr=LOOPBACK[0] if on_loopback else None,
        max_restarts=0,  # the next try of the stage goes on from a state
        start_method="spawn",
        signals_to_handle="SIGQUIT",
        shutdown_timeout=KILL_SECONDS,
        log_line_prefix_template=" ",  # lines stay JSON
        logs_specs=DefaultLogsSpecs(log_dir=str(job.folder / "logs"), redirects=Std.ALL, tee=Std.ERR),
    )


def _listen(receiver: Connection, progress: Callable[[int, int], None]) -> None:
    try:
        while True:
            progress(*receiver.recv())
    except EOFError:
        pass  # the last process has ended


def _work(job: _Job, sender: Connection) -> tuple[Metrics, list[StoredFile]]:
    """One process: its part of the training; what the first one returns counts."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # it never outlives the stage's process
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the stage's process asks for the stop
    rank = int(os.environ["RANK"])
    configure_logs("json", quiet=rank > 0)
    structlog.contextvars.bind_contextvars(**(job.context or {}), rank=rank)
    try:
        result = _train(job, rank, sender)
    except XmasError as error:
        note = {"exit_code": error.exit_code, "message": error.message, "remedy": error.remedy}
        unfinished = job.folder / f"error-{rank}.unfinished"
        unfinished.write_text(json.dumps(note), encoding="utf-8")
        unfinished.rename(job.folder / f"error-{rank}.json")
        raise
    except Exception as error:
        logger.exception("process failed")  # else torch keeps the trace to itself
        sys.stderr.flush()
        if _lost_the_others(error):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(KILL_SECONDS)  # the agent blames whom it sees ended first: that is to be the one that was lost
        os._exit(1)  # gloo's threads may abort a process that leaves by the front door, and it would seem killed
    _end_process_group()
    return result


def _lost_the_others(error: Exception) -> bool:
    """Whether it was raised by an exchange with other processes: most likely one of them is to blame."""
    return any("/torch/distributed/" in frame.filename for frame in traceback.extract_tb(error.__traceback__))


def _end_process_group() -> None:
    """Gloo's threads abort about one process in twenty that ends without this (pytorch issue 190489)."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _train(job: _Job, rank: int, sender: Connection) -> tuple[Metrics, list[StoredFile]]:
    told = _told_by_machine_0(job, rank)
    io = _with_store(job.io, told["attempt"], _tell(sender) if rank == 0 else _tell_nobody)
    states = ResumeStates(io.store, io.output, io.environment.resume_keep)
    start = job.start if told["start"] is None or job.start else states.restore(told["start"])
    if start is not None:
        io.output.take_over(start.finished)
    execution = execution_of(io, job.training, job.layout, states, start, (job.folder / "stop").exists)
    metrics = load_entrypoint(job.entrypoint)(job.section, io, execution)
    return metrics, list(io.output.files.values())


def _told_by_machine_0(job: _Job, rank: int) -> dict[str, Any]:
    """Which attempt this is, and the state to go on from: only the holder of the lease knows."""
    known = {"attempt": job.io.output.attempt, "start": job.start.key if job.start else None}
    if job.io.environment.num_nodes == 1:
        return known
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    if rank == 0:
        store.set("xmas_job", json.dumps(known))
    told: dict[str, Any] = json.loads(store.get("xmas_job"))
    return told


def _tell(sender: Connection) -> Callable[[int, int], None]:
    return lambda done, total: sender.send((done, total))


def _tell_nobody(done: int, total: int) -> None:
    """The first process tells how far the training is."""


def _error_of(job: _Job, error: ChildFailedError) -> XmasError:
    """What the first process that failed says; its last lines, if it could not say anything."""
    notes = sorted(job.folder.glob("error-*.json"), key=lambda path: path.stat().st_mtime)
    if notes:
        note = json.loads(notes[0].read_text(encoding="utf-8"))
        return error_of(note["exit_code"])(note["message"], note["remedy"])
    rank, failure = error.get_first_failure()
    logs = sorted((job.folder / "logs").rglob(f"{failure.local_rank}/stderr.log"))
    lines = logs[-1].read_text(encoding="utf-8", errors="replace").splitlines()[-NUM_LINES:] if logs else []
    tail = "\n".join(["", *lines])
    if failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        why = " (out of memory?)" if name == "SIGKILL" else ""
        return TryAgainError(
            f"process {rank} of the training was ended by {name}{why}.{tail}",
            "Give the same command again: it goes on from the last state that was kept.",
        )
    return XmasError(
        f"process {rank} of the training failed with exit code {failure.exitcode}.{tail}",
        "This is a defect; report it.",
    )


def _without_store(io: StageIO) -> StageIO:
    """As it can be sent to another process: stores hold connections, progress a lease."""
    return replace(io, store=None, progress=None, output=_bare(io.output), artifacts=_stored_in(io.artifacts, None))  # type: ignore[arg-type]


def _with_store(io: StageIO, attempt: str, progress: Callable[[int, int], None]) -> StageIO:
    store = open_store(io.environment.store_root)
    output = Output(store, io.output.address, attempt, io.output.scratch)
    return replace(io, store=store, progress=progress, output=output, artifacts=_stored_in(io.artifacts, store))


def _bare(output: Output) -> Output:
    return Output(None, output.address, output.attempt, output.scratch)  # type: ignore[arg-type]


def _stored_in(artifacts: Mapping[str, tuple[Artifact, ...]], store: Any) -> dict[str, tuple[Artifact, ...]]:
    return {name: tuple(replace(one, store=store) for one in found) for name, found in artifacts.items()}
