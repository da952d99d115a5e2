from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.small_world import World
from xmas_job.commands.verify import verify_selection
from xmas_job.environment import Environment
from xmas_job.errors import BadDataError, UsageError

FILES = ("manifest.json", "subset.parquet", "ranking.parquet", "exports/llava.json")


@pytest.fixture
def pulled(finished: World, first_result: dict[str, Any], tmp_path: Path) -> Path:
    """The selection alone, on another machine: no store around it."""
    shutil.copytree(finished.folder / "store/selections" / first_result["selection_id"], tmp_path / "pulled")
    return tmp_path / "pulled"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Environment:
    return Environment(store_root=str(tmp_path / "no store"))


def test_selection_is_proved_by_its_id(finished: World, first_result: dict[str, Any]) -> None:
    result = verify_selection(finished.environment, first_result["selection_id"])
    assert result == {"selection": first_result["selection_id"], "num_files": 3, "num_examples": 6}


@pytest.mark.parametrize("how", ["folder", "folder/", "uri", "manifest"])
def test_selection_is_proved_from_its_files_alone(
    pulled: Path, elsewhere: Environment, first_result: dict[str, Any], how: str
) -> None:
    name = {
        "folder": str(pulled),
        "folder/": f"{pulled}/",
        "uri": pulled.as_uri(),
        "manifest": str(pulled / "manifest.json"),
    }[how]
    assert verify_selection(elsewhere, name)["selection"] == first_result["selection_id"]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("where", [0.0, 0.5, 0.999])
def test_every_edited_byte_is_found(pulled: Path, elsewhere: Environment, file: str, where: float) -> None:
    data = bytearray((pulled / file).read_bytes())
    data[int(where * len(data))] ^= 1
    (pulled / file).write_bytes(data)
    with pytest.raises(BadDataError) as caught:
        verify_selection(elsewhere, str(pulled))
    assert file in caught.value.message
    assert caught.value.exit_code == 64


@pytest.mark.parametrize("file", FILES[1:])
def test_missing_file_is_named(pulled: Path, elsewhere: Environment, file: str) -> None:
    (pulled / file).unlink()
    with pytest.raises(BadDataError, match="is gone") as caught:
        verify_selection(elsewhere, str(pulled))
    assert file in caught.value.message


@pytest.mark.parametrize("name", ["nothing", "/nothing/there"])
def test_no_selection_is_a_usage_error(elsewhere: Environment, name: str) -> None:
    with pytest.raises(UsageError, match=r"there is no manifest\.json in"):
        verify_selection(elsewhere, name)


def test_provenance_is_no_part_of_the_proof(pulled: Path, elsewhere: Environment) -> None:
    """It holds times and costs, which two runs of equal inputs do not share."""
    (pulled / "provenance.json").write_bytes(b"{}")
    assert verify_selection(elsewhere, str(pulled))["num_files"] == 3
