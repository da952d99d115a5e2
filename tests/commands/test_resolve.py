from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.small_world import World, land_version
from xmas_job.commands.resolve import latest_run_id, new_run_id, read_run, resolve_run, start, start_run
from xmas_job.errors import BadDataError, UsageError
from xmas_job.fingerprint import digest_of_folder
from xmas_job.recipe_files import load_config
from xmas_job.runner import Run


def resolve(world: World, **changes: Any) -> Run:
    return resolve_run(world.config(**changes), world.store, "r")


def refusal(world: World, **changes: Any) -> UsageError:
    with pytest.raises(UsageError) as caught:
        resolve(world, **changes)
    assert world.folder.joinpath("store/runs").exists() is False
    return caught.value


def make_model(folder: Path, weights: bytes = b"w") -> str:
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(b"{}")
    (folder / "model.safetensors").write_bytes(weights)
    return str(folder)


def with_model(name: str) -> dict[str, Any]:
    return {"select": {"method": "xmas"}, "proxy": {"model": name}}


# --- datasets ---------------------------------------------------------------------------------------------------------


def test_newest_version_is_the_highest_number(world: World) -> None:
    for version in ("v2", "v10", "v9"):
        land_version(world, "demo", version)
    assert resolve(world).config.datasets == ("demo@v10",)


@pytest.mark.parametrize(
    ("versions", "newest"),
    [
        (["2026-01-09", "2026-01-10", "2025-12-31"], "2026-01-10"),
        (["1.9", "1.10", "1.10-rc"], "1.10-rc"),
        (["9", "10", "v1"], "v1"),
    ],
)
def test_version_numbers_are_compared_as_numbers(world: World, versions: list[str], newest: str) -> None:
    for version in versions:
        land_version(world, "other", version)
    assert resolve(world, datasets=["other"]).config.datasets == (f"other@{newest}",)


def test_version_that_has_not_landed_whole_is_ignored(world: World) -> None:
    land_version(world, "demo", "v2", is_whole=False)
    assert resolve(world).config.datasets == ("demo@v1",)
    assert "no landed version 'v2'" in refusal(world, datasets=["demo@v2"]).message


def test_marker_deeper_in_a_version_does_not_land_it(world: World) -> None:
    folder = land_version(world, "demo", "v2", is_whole=False)
    (folder / "images/_SUCCESS").touch()
    assert resolve(world).config.datasets == ("demo@v1",)


def test_version_that_was_asked_for_is_taken(world: World) -> None:
    land_version(world, "demo", "v2")
    assert resolve(world, datasets=["demo@v1"]).config.datasets == ("demo@v1",)


def test_missing_version_is_refused_with_those_that_landed(world: World) -> None:
    for version in ("v10", "v9"):
        land_version(world, "demo", version)
    error = refusal(world, datasets=["demo@v3"])
    assert error.message == "dataset 'demo' has no landed version 'v3'."
    assert error.remedy == "Landed: v1, v9, v10."


def test_missing_dataset_is_refused(world: World) -> None:
    error = refusal(world, datasets=["none"])
    assert "dataset 'none' has no landed version" in error.message
    assert world.store.uri in error.message


def test_dataset_that_is_named_twice_once_resolved_is_refused(world: World) -> None:
    assert "names the same dataset twice" in refusal(world, datasets=["demo", "demo@v1"]).message


def test_source_changes_with_the_landed_files_but_not_with_the_marker(world: World) -> None:
    def digest() -> str:
        return resolve(world).sources["landing:demo@v1"].digest

    folder = world.folder / "store/landing/demo/v1"
    before = digest()
    (folder / "_SUCCESS").write_text("again")
    assert digest() == before
    (folder / "more.jsonl").write_text("")
    assert digest() != before
    (folder / "more.jsonl").unlink()
    assert digest() == before
    status = (folder / "data.json").stat()
    os.utime(folder / "data.json", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert digest() != before


# --- models -----------------------------------------------------------------------------------------------------------


def test_model_is_found_by_path_and_by_key_with_one_digest(world: World, tmp_path: Path) -> None:
    by_path = resolve(world, **with_model(make_model(tmp_path / "elsewhere/m"))).sources["model:proxy"]
    make_model(world.folder / "store/models/m")
    by_key = resolve(world, **with_model("models/m")).sources["model:proxy"]
    assert by_path.uri == str(tmp_path / "elsewhere/m")
    assert by_key.uri == "models/m", "not a path of this machine"
    assert by_path.digest == by_key.digest


def test_model_has_another_digest_with_other_weights(world: World, tmp_path: Path) -> None:
    one, other = make_model(tmp_path / "one"), make_model(tmp_path / "other", b"v")
    digests = {resolve(world, **with_model(name)).sources["model:proxy"].digest for name in (one, other)}
    assert len(digests) == 2


@pytest.mark.parametrize("name", ["models/none", "/models/none", "../models/none", "landing/demo", "~/none", ""])
def test_folder_that_is_no_model_is_refused(world: World, name: str) -> None:
    error = refusal(world, **with_model(name))
    assert f"{name!r} is no model folder" in error.message
    assert "Give the folder of a transformers model" in error.remedy


def test_model_that_no_stage_reads_is_not_asked_for(world: World) -> None:
    assert "model:proxy" not in resolve(world, proxy={"model": "models/none"}).sources


# --- starting a run ---------------------------------------------------------------------------------------------------


def test_started_run_is_read_back_as_it_was(world: World) -> None:
    started = start_run(world.config(), world.store, "r")
    assert read_run(world.store, "r") == started
    assert started.config.datasets == ("demo@v1",)


def test_same_request_continues_its_run(world: World) -> None:
    started = start_run(world.config(), world.store, "r")
    written = world.store.read("runs/r/run.json")
    assert start_run(world.config(), world.store, "r") == started
    assert world.store.read("runs/r/run.json") == written


def test_run_in_flight_keeps_its_versions_when_new_data_lands(world: World) -> None:
    started = start_run(world.config(), world.store, "r")
    land_version(world, "demo", "v2")
    assert start_run(world.config(), world.store, "r") == started
    assert start_run(world.config(), world.store, "s").config.datasets == ("demo@v2",)


def test_other_request_under_the_same_id_is_refused(world: World) -> None:
    start_run(world.config(), world.store, "r")
    with pytest.raises(UsageError, match="run r was started with another configuration"):
        start_run(world.config(publish={"budget": "3"}), world.store, "r")


def test_request_is_kept_as_a_recipe_that_can_be_run_again(world: World) -> None:
    started = start_run(world.config(), world.store, "r")
    assert load_config(str(world.folder / "store/runs/r/recipe.yaml")) == started.config


def test_refused_request_leaves_no_run(world: World) -> None:
    with pytest.raises(UsageError):
        start_run(world.config(datasets=["none"]), world.store, "r")
    assert list(world.store.list("runs")) == []


@pytest.mark.parametrize("run_id", ["", "..", "../r", "/r", "a/b", "a b", "ü", "-r", "r" * 201, "r\n"])
def test_id_that_is_no_part_of_a_key_is_refused(world: World, run_id: str) -> None:
    with pytest.raises(UsageError, match="run id"):
        start_run(world.config(), world.store, run_id)
    with pytest.raises(UsageError, match="run"):
        read_run(world.store, run_id)
    assert list(world.store.list("runs")) == []


@pytest.mark.parametrize("run_id", ["scheduled__2026-01-01T00.00.00+00.00", "r", "7", "20260101T000000Z-1f0a"])
def test_ids_of_launchers_are_accepted(world: World, run_id: str) -> None:
    assert start_run(world.config(), world.store, run_id).run_id == run_id


def test_new_ids_are_accepted_and_differ(world: World) -> None:
    one, other = new_run_id(), new_run_id()
    assert one != other
    assert start_run(world.config(), world.store, one).run_id == one


def test_launcher_gets_the_stages_in_order(world: World) -> None:
    assert start(world.environment, world.config(), "r") == {
        "run": "r",
        "stages": ["ingest:demo@v1", "pool", "select:subset", "publish:subset", "report"],
    }


def test_unknown_run_is_refused(world: World) -> None:
    with pytest.raises(UsageError, match="there is no run 'none'"):
        read_run(world.store, "none")


def test_latest_run_is_the_one_started_last(world: World) -> None:
    with pytest.raises(UsageError, match="there is no run in"):
        latest_run_id(world.store)
    for run_id, created_at in (("b", "2026-01-02T00:00:00+00:00"), ("z", "2026-01-01T00:00:00+00:00")):
        start_run(world.config(), world.store, run_id)
        raw = json.loads(world.store.read(f"runs/{run_id}/run.json"))
        world.store.put(f"runs/{run_id}/run.json", json.dumps({**raw, "created_at": created_at}).encode())
    assert latest_run_id(world.store) == "b"


# --- trained selectors --------------------------------------------------------------------------------------------


def with_selector(uri: str, encoder: str) -> dict[str, Any]:
    return {"select": {"method": "ofa"}, "encoder": {"model": encoder}, "selector": {"uri": uri}}


def make_selector(folder: Path, encoder: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "card.json").write_text(json.dumps({"encoder": digest_of_folder(Path(encoder))}))
    (folder / "selector.safetensors").write_bytes(b"w")
    return folder


def test_selector_is_found_by_path_key_and_uri(world: World, tmp_path: Path) -> None:
    encoder = make_model(tmp_path / "clip")
    folder = make_selector(world.folder / "store/selectors/s1", encoder)
    digests = {
        resolve(world, **with_selector(uri, encoder)).sources["model:selector"].digest
        for uri in ("selectors/s1", str(folder), folder.as_uri(), f"{folder.as_uri()}/")
    }
    assert digests == {digest_of_folder(folder)}


def test_selector_of_another_encoder_is_refused_with_both_named(world: World, tmp_path: Path) -> None:
    encoder, other = make_model(tmp_path / "clip"), make_model(tmp_path / "siglip", b"v")
    folder = make_selector(tmp_path / "selector", encoder)
    error = refusal(world, **with_selector(str(folder), other))
    assert digest_of_folder(Path(encoder))[:12] in error.message
    assert other in error.message
    assert str(folder) in error.message


def test_folder_without_a_card_is_no_selector(world: World, tmp_path: Path) -> None:
    encoder = make_model(tmp_path / "clip")
    error = refusal(world, **with_selector(encoder, encoder))
    assert "is no trained selector folder: there is no card.json" in error.message
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/card.json").write_text("[]")
    with pytest.raises(BadDataError, match=r"card\.json is broken"):
        resolve(world, **with_selector(str(tmp_path / "broken"), encoder))
