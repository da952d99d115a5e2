"""The whole line on this machine: the same `xmas-job stage` processes as under a launcher, inputs before outputs.

Owns the order and the number of processes. A stage that is there already starts no process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from xmas_job.commands.process import run_stage_process
from xmas_job.commands.resolve import new_run_id, start_run
from xmas_job.commands.show import describe
from xmas_job.commands.watch import tell_of_failure, tell_of_run
from xmas_job.config import RunConfig
from xmas_job.environment import Environment
from xmas_job.errors import XmasError
from xmas_job.fingerprint import Json
from xmas_job.logs import get_logger
from xmas_job.pipeline import Node, is_source
from xmas_job.runner import Runner
from xmas_job.storage.roots import open_store

logger = get_logger(__name__)

OnEvent = Callable[[str, dict[str, Json]], None]
"""Called with a stage's id and each of its log events."""


def run_line(
    environment: Environment, config: RunConfig, run_id: str | None, on_event: OnEvent | None
) -> dict[str, Json]:
    """Run or find every stage; what `show` prints of the run.

    Args:
        environment: where and how.
        config: what.
        run_id: of a run to start or to continue; None for a new one.
        on_event: shows the stages' events; None passes their log lines through.

    Raises:
        XmasError: of the first stage that fails. Stages that run beside it are left to finish.
    """
    store = open_store(environment.store_root)
    run = start_run(config, store, run_id or new_run_id())
    logger.info("run started", run=run.run_id, store=store.uri)
    line = _Line(Runner(store, environment, run), environment, on_event)
    try:
        line.run()
    except (XmasError, OSError) as error:
        tell_of_failure(environment, run, line.failed, error)
        tell_of_run(environment, run)
        raise
    tell_of_run(environment, run)
    return describe(store, run)


@dataclass
class _Line:
    """The state of one run: which stages are done, and which processes are at work."""

    runner: Runner
    environment: Environment
    on_event: OnEvent | None
    done: set[str] = field(default_factory=set)
    started: set[str] = field(default_factory=set)
    at_work: dict[Future[None], str] = field(default_factory=dict)
    gpu: threading.Lock = field(default_factory=threading.Lock)
    failed: str = "the line"
    """The stage at work when an error came."""

    def run(self) -> None:
        nodes = self.runner.run.nodes
        with ThreadPoolExecutor(self.environment.workers) as pool:
            try:
                while len(self.done) < len(nodes):
                    self._advance(pool)
            except BaseException:
                # What waits is not started any more; what is at work ends by itself, or with the same interrupt.
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _advance(self, pool: ThreadPoolExecutor) -> None:
        """Start what is ready, and wait for the next process to end."""
        for node in self.runner.run.nodes.values():
            if node.id not in self.started and self._is_ready(node):
                self._start(node, pool)
        if self.at_work:
            finished, _ = wait(self.at_work, return_when=FIRST_COMPLETED)
            for future in finished:
                self._finish(future)

    def _is_ready(self, node: Node) -> bool:
        return all(is_source(item) or item in self.done for items in node.inputs.values() for item in items)

    def _start(self, node: Node, pool: ThreadPoolExecutor) -> None:
        self.started.add(node.id)
        if self.runner.find(node.id):
            self.failed = node.id
            self.runner.run_stage(node.id)
            self.done.add(node.id)
            return
        # Workers of a partitioned stage share its partitions among themselves; more than partitions would idle.
        copies = min(self.environment.workers, self.runner.num_partitions(node)) if node.spec.partitioned_by else 1
        for _ in range(1 if node.uses_gpu else max(copies, 1)):
            self.at_work[pool.submit(self._work, node)] = node.id

    def _work(self, node: Node) -> None:
        # One GPU stage at a time: two of them would share the memory that each was planned for.
        if node.uses_gpu:
            with self.gpu:
                run_stage_process(self.runner.run.run_id, node.id, self.on_event)
        else:
            run_stage_process(self.runner.run.run_id, node.id, self.on_event)

    def _finish(self, future: Future[None]) -> None:
        self.failed = node_id = self.at_work.pop(future)
        future.result()
        if node_id not in self.at_work.values():
            self.done.add(node_id)
