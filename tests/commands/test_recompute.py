"""Deriving a selection again, here with the random method: ranking and cut. The trajectories' line is end to end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.small_world import World
from xmas_job.commands.recompute import recompute_selection
from xmas_job.environment import Environment
from xmas_job.errors import BadDataError, UsageError
from xmas_job.fingerprint import digest_of_file
from xmas_job.storage.record import content_digest, parse_record


@pytest.fixture
def own(finished: World, tmp_path: Path) -> World:
    shutil.copytree(finished.folder, tmp_path / "world")
    return World(tmp_path / "world")


@pytest.fixture
def selection(first_result: dict[str, Any]) -> str:
    return str(first_result["selection_id"])


def test_selection_is_derived_again_with_the_same_bytes(finished: World, selection: str) -> None:
    result = recompute_selection(finished.environment, selection)
    assert result == {
        "num_artifacts": 4,
        "num_checked_files": result["num_checked_files"],
        "recomputed": ["pool", "select:subset", "publish:subset"],
    }
    assert list((finished.folder / "scratch").iterdir()) == []


@pytest.mark.parametrize("stage", ["ingest", "pool", "select", "publish"])
def test_changed_file_behind_a_selection_is_named(own: World, selection: str, stage: str) -> None:
    path = min(own.folder.glob(f"store/artifacts/{stage}/*/attempts/1/*.parquet"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadDataError, match="has other bytes than were recorded") as caught:
        recompute_selection(own.environment, selection)
    assert path.relative_to(own.folder / "store").as_posix() in caught.value.message
    assert caught.value.exit_code == 64


def test_subset_that_the_ranking_does_not_give_is_found_though_its_record_fits(own: World, selection: str) -> None:
    """Forged as a whole: file, digest of the file, digest of the artifact. Only making it again tells."""
    (path,) = own.folder.glob("store/artifacts/publish/*/record.json")
    (subset,) = own.folder.glob("store/artifacts/publish/*/attempts/1/subset.parquet")
    subset.write_bytes(subset.read_bytes() + b"forged")
    raw = json.loads(path.read_bytes())
    for stored in raw["files"]:
        if stored["path"] == "subset.parquet":
            stored |= {"sha256": digest_of_file(subset), "bytes": subset.stat().st_size}
    files = parse_record(json.dumps(raw).encode()).files
    path.write_text(json.dumps({**raw, "digest": content_digest(files)}))
    with pytest.raises(BadDataError, match=r"publish:subset: subset\.parquet, derived again, has other bytes"):
        recompute_selection(own.environment, selection)


def test_selection_whose_artifacts_are_gone_cannot_be_derived(own: World, selection: str) -> None:
    shutil.rmtree(own.folder / "store/artifacts/pool")
    with pytest.raises(UsageError, match="the output of pool, from which the selection was made, is not whole"):
        recompute_selection(own.environment, selection)


def test_selection_outside_its_store_cannot_be_derived(own: World, selection: str, tmp_path: Path) -> None:
    elsewhere = Environment(store_root=str(tmp_path / "other"), scratch=tmp_path / "scratch")
    with pytest.raises(UsageError, match=r"has no selections/.*/provenance\.json"):
        recompute_selection(elsewhere, selection)
