"""How log lines look, in a process of its own: the configuration is one of the whole process."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

START = "import logging, structlog; from xmas_job.logs import configure_logs, get_logger; "


def run(code: str) -> tuple[str, str]:
    done = subprocess.run([sys.executable, "-c", START + code], capture_output=True, text=True, check=True)
    return done.stdout, done.stderr


def events(code: str) -> list[dict[str, Any]]:
    stdout, stderr = run(code)
    assert stdout == "", "stdout belongs to results"
    return [json.loads(line) for line in stderr.splitlines()]


def test_event_carries_what_is_bound_and_leaves_stdout_alone() -> None:
    (event,) = events(
        "configure_logs('json'); structlog.contextvars.bind_contextvars(run='r', stage='pool', attempt=2);"
        "get_logger('xmas_job.x').info('stage started', num_examples=3)"
    )
    assert event.pop("timestamp").endswith("Z")
    assert event == {
        "event": "stage started",
        "level": "info",
        "run": "r",
        "stage": "pool",
        "attempt": 2,
        "num_examples": 3,
    }


def test_event_of_a_library_is_a_line_of_the_same_form() -> None:
    (event,) = events(
        "configure_logs('json'); structlog.contextvars.bind_contextvars(stage='pool');"
        "logging.getLogger('some.library').warning('lost %d of %s', 3, 'them')"
    )
    assert (event["event"], event["level"], event["stage"]) == ("lost 3 of them", "warning", "pool")


def test_deepspeed_writes_no_lines_of_its_own() -> None:
    (event,) = events(
        "configure_logs('json'); import deepspeed.accelerator; deepspeed.accelerator.get_accelerator();"
        "from deepspeed.utils import logger; logger.warning('of a training')"
    )
    assert (event["event"], event["level"]) == ("of a training", "warning")


def test_library_chatter_and_our_debug_are_not_shown() -> None:
    assert (
        events(
            "configure_logs('json'); logging.getLogger('some.library').info('chatter');"
            "get_logger('xmas_job.x').debug('detail'); get_logger('xmas_job.x').warning('shown')"
        )[0]["event"]
        == "shown"
    )


def test_trace_of_an_error_stays_on_one_line() -> None:
    (event,) = events(
        "configure_logs('json')\ntry: 1 / 0\nexcept ZeroDivisionError: get_logger('xmas_job.x').exception('broke')"
    )
    assert event["level"] == "error"
    assert "ZeroDivisionError: division by zero" in event["exception"]


def test_auto_is_json_where_nobody_looks_on() -> None:
    assert events("configure_logs(); get_logger('xmas_job.x').info('here')")[0]["event"] == "here"


def test_console_is_for_people() -> None:
    stdout, stderr = run("configure_logs('console'); get_logger('xmas_job.x').info('stage done', seconds=2)")
    assert stdout == ""
    assert "stage done" in stderr
    assert not stderr.startswith("{")


def test_configuring_twice_does_not_double_the_lines() -> None:
    assert len(events("configure_logs('json'); configure_logs('json'); get_logger('xmas_job.x').info('once')")) == 1
