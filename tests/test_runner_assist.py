"""A machine that only helps: it calls the stage without a lease, commits nothing, and waits for the record."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.toy_line import Control, toy_runner
from xmas_job.errors import TryAgainError


def test_a_helper_takes_no_lease_and_finds_what_the_holder_committed(tmp_path: Path) -> None:
    runner = toy_runner(tmp_path)
    built = runner.run_stage("numbers:a")
    helped = toy_runner(tmp_path).assist("numbers:a")
    assert (helped.status, helped.artifact.record) == ("hit", built.artifact.record)
    assert Control(tmp_path / "control").count("half-way numbers") == 1  # it is there: there is nothing to help with
    leases = [entry.key for entry in runner.store.list(built.artifact.address) if "/lease/" in entry.key]
    assert len(leases) == 1


def test_a_helper_works_and_gives_up_when_no_record_comes(tmp_path: Path) -> None:
    runner = toy_runner(tmp_path, {"lease_ttl_seconds": 0.2})
    with pytest.raises(TryAgainError, match="machine 0 has not committed numbers:a"):
        runner.assist("numbers:a")
    assert Control(tmp_path / "control").count("half-way numbers") == 1
    assert not [entry for entry in runner.store.list("artifacts") if entry.key.endswith("record.json")]
