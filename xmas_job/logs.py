"""Structured logs on stderr: JSON lines, or a readable console where a person looks on.

Owns how log lines look. Stdout is left to results, so that a launcher can read the last line as JSON.
"""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog

LogFormat = Literal["auto", "json", "console"]
ON_CPU = "Setting accelerator to CPU"
"""What DeepSpeed says in every process that imports it, on a machine that has no GPU by intention."""


def configure_logs(log_format: LogFormat = "auto", *, quiet: bool = False) -> None:
    """Send our events and those of every library through one formatter on stderr.

    Args:
        log_format: `auto` takes the console on a terminal and JSON elsewhere.
        quiet: only warnings and worse; of processes that all do the same, one tells.
    """
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderers: list[structlog.types.Processor] = (
        [structlog.dev.ConsoleRenderer(pad_event_to=24)]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(sort_keys=False)]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING if quiet else logging.INFO),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("xmas_job").setLevel(logging.INFO)
    logging.getLogger("DeepSpeed").addFilter(_by_our_handler)


def _by_our_handler(record: logging.LogRecord) -> bool:
    """DeepSpeed makes a handler of its own when it is imported, which writes plain lines to stdout."""
    if ON_CPU not in record.getMessage():
        logging.getLogger().handle(record)
    return False


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose events carry the bound run, stage, partition and attempt."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return logger
