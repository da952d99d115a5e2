from __future__ import annotations

from pathlib import Path

import pytest

from xmas_job.environment import load_environment
from xmas_job.errors import UsageError


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("STORE_ROOT", "SCRATCH", "WORKERS", "LEASE_TTL_SECONDS", "LOG_FORMAT"):
        monkeypatch.delenv(f"XMAS_{name}", raising=False)
    monkeypatch.chdir(tmp_path)


def test_everything_lies_in_one_ignored_folder_by_default(tmp_path: Path) -> None:
    environment = load_environment()
    assert environment.store_root == str(tmp_path / ".xmas/store")
    assert environment.scratch == tmp_path / ".xmas/scratch"
    assert environment.workers >= 1


def test_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XMAS_STORE_ROOT", "/data/store")
    monkeypatch.setenv("XMAS_WORKERS", "3")
    monkeypatch.setenv("XMAS_LEASE_TTL_SECONDS", "1.5")
    environment = load_environment()
    assert (environment.store_root, environment.workers, environment.lease_ttl_seconds) == ("/data/store", 3, 1.5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WORKERS", "many"),
        ("WORKERS", "0"),
        ("LEASE_TTL_SECONDS", "0"),
        ("LEASE_TTL_SECONDS", "nan"),
        ("STAGE_TIMEOUT_SECONDS", "-1"),
        ("LOG_FORMAT", "xml"),
    ],
)
def test_wrong_variable_is_named_with_its_value(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"XMAS_{name}", value)
    with pytest.raises(UsageError) as caught:
        load_environment()
    assert f"XMAS_{name}='{value}'" in caught.value.message
    assert caught.value.remedy == f"Correct or unset XMAS_{name}."


def test_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A compose file passes variables on that nobody has set; the store must not become the current folder."""
    monkeypatch.setenv("XMAS_STORE_ROOT", "")
    monkeypatch.setenv("XMAS_WORKERS", "")
    assert load_environment().store_root == str(tmp_path / ".xmas/store")


def test_settings_cannot_be_changed_later() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_environment().workers = 5
