"""Why a stage is not reused. The differences are those that each test makes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.small_world import World, land_version
from xmas_job.commands.explain import explain_cache
from xmas_job.commands.resolve import start_run
from xmas_job.commands.stage import run_stage


@pytest.fixture
def own(finished: World, tmp_path: Path) -> World:
    shutil.copytree(finished.folder, tmp_path / "world")
    return World(tmp_path / "world")


def explained(world: World, **changes: Any) -> dict[str, Any]:
    result: Any = explain_cache(world.environment, world.config(**changes))
    return {stage["stage"]: stage for stage in result["stages"]}


def fields(stage: Any) -> list[tuple[str, Any, Any]]:
    return [(found["field"], found["old"], found["new"]) for found in stage["differences"]]


def test_finished_line_has_nothing_to_explain(finished: World) -> None:
    assert all(stage == {"stage": name, "state": "HIT"} for name, stage in explained(finished).items())


def test_changed_setting_is_named_with_old_and_new_value(finished: World) -> None:
    stages = explained(finished, publish={"budget": "2"})
    assert fields(stages["publish:subset"]) == [("section.budget", "50%", "2")]
    assert stages["publish:subset"]["state"] == "MISS"
    assert stages["report"]["state"] == "UNKNOWN"
    (difference,) = stages["report"]["differences"]
    assert (difference["field"], difference["new"]) == ("input publish:subset", "not built yet")
    assert [(why["field"], why["old"], why["new"]) for why in difference["because"]] == [("section.budget", "50%", "2")]


def test_input_that_changed_is_followed_to_its_cause(own: World) -> None:
    config = own.config(pool={"excluded_uids": [uid_of_the_pool(own)]})
    start_run(config, own.store, "r")
    run_stage(own.environment, "r", "pool", None)
    stages = explained(own, pool=config.pool.model_dump())
    assert stages["pool"]["state"] == "HIT"
    (difference,) = stages["select:subset"]["differences"]
    assert difference["field"] == "input pool"
    assert [why["field"] for why in difference["because"]] == ["section.excluded_uids"]
    assert difference["because"][0]["old"] == []


def uid_of_the_pool(world: World) -> str:
    (ranking,) = world.folder.glob("store/artifacts/select/*/attempts/1/ranking.parquet")
    pa = pytest.importorskip("pyarrow.parquet")
    return str(pa.read_table(ranking)["uid"][0].as_py())


def test_other_landed_version_is_named(own: World) -> None:
    land_version(own, "demo", "v2")
    stages = explained(own, datasets=["demo@v2"])
    found = {field for field, _, _ in fields(stages["ingest:demo@v2"])}
    assert found == {"input landing:demo@v2", "section.image_root"}


def test_other_stage_version_is_named(own: World) -> None:
    """As after an upgrade that changes what a stage's output means."""
    (path,) = own.folder.glob("store/artifacts/select/*/record.json")
    record = json.loads(path.read_bytes())
    shutil.copytree(path.parent, path.parent.parent / "0123")
    shutil.rmtree(path.parent)
    (path.parent.parent / "0123/record.json").write_text(json.dumps({**record, "version": 99}))
    assert fields(explained(own)["select:subset"]) == [("version", 99, 1)]


def test_lost_file_is_named(own: World) -> None:
    (path,) = own.folder.glob("store/artifacts/pool/*/attempts/1/dropped.parquet")
    path.unlink()
    stage = explained(own)["pool"]
    assert (stage["state"], stage["differences"], stage["lost"]) == ("MISS", [], ["dropped.parquet"])


def test_nearest_has_the_fewest_differences_and_is_the_newest_of_equals(own: World) -> None:
    (path,) = own.folder.glob("store/artifacts/publish/*/record.json")
    record = json.loads(path.read_bytes())
    near = {"budget": "3"}
    for name, section, version, when in (
        ("far-and-new", near, 99, "2999-01-01"),
        ("near-and-old", near, 1, "1999-01-01"),
        ("near-and-new", near, 1, "2998-01-01"),
    ):
        folder = path.parent.parent / name
        folder.mkdir()
        changed = {**record, "section": section, "version": version, "provenance": {"created_at": when}}
        (folder / "record.json").write_text(json.dumps(changed))
    stage = explained(own, publish={"budget": "2"})["publish:subset"]
    assert stage["nearest"] == "artifacts/publish/near-and-new"
    assert fields(stage) == [("section.budget", "3", "2")]


def test_first_of_its_kind_has_no_nearest(world: World) -> None:
    stage = explained(world)["ingest:demo@v1"]
    assert (stage["nearest"], stage["differences"]) == (None, [])


def test_explaining_writes_nothing(own: World) -> None:
    before = list(own.store.list(""))
    explained(own, publish={"budget": "2"})
    assert list(own.store.list("")) == before
