"""Running stages once, also when processes are killed, stopped, late or many. Real stages, real processes."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Child, wait_until
from tests.toy_line import NODES, Control, run_stage, toy_runner
from xmas_job.errors import BadDataError, MissingInputError, TryAgainError
from xmas_job.runner import Runner
from xmas_job.storage.journal import outcome_key
from xmas_job.storage.record import Artifact

Start = Callable[..., Child]
SQUARES_0_TO_9 = 285


def run_all(runner: Runner) -> dict[str, Artifact]:
    return {node_id: runner.run_stage(node_id).artifact for node_id in NODES}


def contents(artifact: Artifact) -> dict[str, bytes]:
    return {path: artifact.read(path) for path in artifact.paths}


def beats(folder: Path) -> int:
    """Heartbeats of the first lease of `numbers`."""
    (lease,) = folder.glob("store/artifacts/numbers/*/lease/000001.json")
    return int(json.loads(lease.read_bytes())["beat"])


def stored(folder: Path, pattern: str) -> list[Path]:
    return sorted((folder / "store").glob(f"artifacts/{pattern}"))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    return run_all(toy_runner(tmp_path_factory.mktemp("undisturbed")))


# --- one process ------------------------------------------------------------------------------------------------------


def test_line_is_built_once_and_then_found(tmp_path: Path) -> None:
    first = [toy_runner(tmp_path).run_stage(node_id) for node_id in NODES]
    again = [toy_runner(tmp_path).run_stage(node_id) for node_id in NODES]
    assert [result.status for result in first] == ["built"] * 3
    assert [result.status for result in again] == ["hit"] * 3
    assert [result.artifact.record for result in again] == [result.artifact.record for result in first]
    assert json.loads(first[2].artifact.read("total.json")) == SQUARES_0_TO_9
    control = Control(tmp_path / "control")
    assert [control.count(f"half-way {what}") for what in ("numbers", "squares", "total")] == [1, 3, 1]


def test_record_says_what_was_built_from_what(tmp_path: Path) -> None:
    built = run_all(toy_runner(tmp_path))
    record = built["total"].record
    assert record.inputs == {"squares": (built["squares"].record.digest,), "nothing": ()}
    assert record.section == {"num_examples": 10, "partition_size": 4}
    assert record.metrics == {"total": SQUARES_0_TO_9}
    assert built["total"].address == f"artifacts/total/{record.fingerprint}"
    assert [file.path for file in built["numbers:a"].record.files] == ["more/last.json", "numbers.json"]
    assert record.provenance["attempt"] == 1


def test_sealed_record_has_the_files_and_sums_of_its_partitions(tmp_path: Path) -> None:
    sealed = run_all(toy_runner(tmp_path))["squares"].record
    assert [file.path for file in sealed.files] == [f"squares/{partition}.json" for partition in range(3)]
    assert sealed.metrics == {"num_examples": 10}


def test_store_and_environment_do_not_enter_an_address(tmp_path: Path, undisturbed: dict[str, Artifact]) -> None:
    settings = {"workers": 7, "lease_ttl_seconds": 5.0, "stage_timeout_seconds": 9.0, "log_format": "json"}
    elsewhere = run_all(toy_runner(tmp_path, settings))
    assert [a.store.uri for a in elsewhere.values()] != [a.store.uri for a in undisturbed.values()]
    assert {n: a.address for n, a in elsewhere.items()} == {n: a.address for n, a in undisturbed.items()}
    assert {n: a.record.digest for n, a in elsewhere.items()} == {n: a.record.digest for n, a in undisturbed.items()}


def test_other_section_has_another_address(tmp_path: Path) -> None:
    run_all(toy_runner(tmp_path))
    result = toy_runner(tmp_path, num_examples=11).run_stage("numbers:a")
    assert result.status == "built"
    assert len(stored(tmp_path, "numbers/*")) == 2


def test_stage_that_rebuilds_the_same_bytes_changes_nothing_downstream(tmp_path: Path) -> None:
    """The partition size is part of the address of `numbers`, but not of its bytes."""
    before = run_all(toy_runner(tmp_path))
    runner = toy_runner(tmp_path, partition_size=10)
    numbers = runner.run_stage("numbers:a")
    assert numbers.status == "built"
    assert numbers.artifact.address != before["numbers:a"].address
    assert numbers.artifact.record.digest == before["numbers:a"].record.digest


def test_missing_input_names_the_command_that_builds_it(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError) as caught:
        toy_runner(tmp_path).run_stage("total")
    assert caught.value.exit_code == 2
    assert "squares" in caught.value.message
    assert caught.value.remedy == "Build it: xmas-job stage squares --run toy"
    assert stored(tmp_path, "*") == []


@pytest.mark.parametrize("node_id", NODES)
def test_lost_file_is_built_anew_with_the_same_bytes(
    tmp_path: Path, undisturbed: dict[str, Artifact], node_id: str
) -> None:
    artifact = run_all(toy_runner(tmp_path))[node_id]
    lost = artifact.paths[0]
    artifact.store.delete(artifact.key(lost))
    runner = toy_runner(tmp_path)
    assert runner.find(node_id) is None
    result = runner.run_stage(node_id)
    assert result.status == "built"
    assert result.artifact.record.digest == undisturbed[node_id].record.digest
    assert contents(result.artifact) == contents(undisturbed[node_id])
    assert toy_runner(tmp_path).run_stage(node_id).status == "hit"


def test_cut_file_counts_as_lost(tmp_path: Path) -> None:
    artifact = run_all(toy_runner(tmp_path))["numbers:a"]
    artifact.store.put(artifact.key("numbers.json"), artifact.read("numbers.json")[:-1])
    assert toy_runner(tmp_path).run_stage("numbers:a").status == "built"


def test_damaged_input_stops_the_stage_that_reads_it(tmp_path: Path) -> None:
    runner = toy_runner(tmp_path)
    numbers = runner.run_stage("numbers:a").artifact
    data = numbers.read("numbers.json")
    numbers.store.put(numbers.key("numbers.json"), data.replace(b"3", b"4"))
    with pytest.raises(BadDataError, match="has other bytes than were recorded") as caught:
        toy_runner(tmp_path).run_stage("squares")
    assert numbers.key("numbers.json") in caught.value.message
    # The remedy holds: without the file, the stage is built anew.
    numbers.store.delete(numbers.key("numbers.json"))
    assert json.loads(run_all(toy_runner(tmp_path))["total"].read("total.json")) == SQUARES_0_TO_9


@pytest.mark.parametrize("node_id", NODES)
def test_failed_stage_leaves_no_record_and_the_next_try_succeeds(
    tmp_path: Path, undisturbed: dict[str, Artifact], node_id: str
) -> None:
    runner = toy_runner(tmp_path)
    for before in NODES[: NODES.index(node_id)]:
        runner.run_stage(before)
    order = "break squares 1" if node_id == "squares" else f"break {node_id.partition(':')[0]}"
    control = Control(tmp_path / "control")
    control.order(order)
    with pytest.raises(BadDataError, match="was told to fail"):
        runner.run_stage(node_id)
    stage = node_id.partition(":")[0]
    assert stored(tmp_path, f"{stage}/*/record.json") == []
    assert not runner.store.exists(outcome_key("toy", node_id))
    assert list((tmp_path / "scratch").iterdir()) == []

    control.lift(order)
    started = time.monotonic()
    result = toy_runner(tmp_path).run_stage(node_id)
    assert time.monotonic() - started < 30, "the lease of the failed try was not released (its TTL is 60 s)"
    assert result.status == "built"
    assert contents(result.artifact) == contents(undisturbed[node_id])
    own = [file for file in result.artifact.record.files if "squares/0" not in file.path and "/2.json" not in file.path]
    assert all("attempts/2/" in file.location for file in own)


def test_follow_up_is_called_on_a_build_and_on_a_hit(tmp_path: Path) -> None:
    digest = toy_runner(tmp_path).run_stage("numbers:a").artifact.record.digest
    control = Control(tmp_path / "control")
    assert control.count(f"shown {digest} a") == 1
    toy_runner(tmp_path).run_stage("numbers:a")
    assert control.count(f"shown {digest} a") == 2


def test_outcome_says_what_became_of_the_stage(tmp_path: Path) -> None:
    runner = toy_runner(tmp_path)
    artifact = runner.run_stage("numbers:a").artifact
    outcome = json.loads(runner.store.read("runs/toy/stages/numbers.a.json"))
    assert outcome.pop("seconds") >= 0
    expected = {"stage": "numbers:a", "digest": artifact.record.digest, "address": artifact.address}
    assert outcome == {**expected, "status": "built"}


def test_what_a_run_built_stays_built_in_its_outcome(tmp_path: Path) -> None:
    """A later try, or another of its workers, only finds it; for another run it is a hit."""
    for _ in range(2):
        runner = toy_runner(tmp_path)
        runner.run_stage("numbers:a")
        assert json.loads(runner.store.read(outcome_key("toy", "numbers:a")))["status"] == "built"
    other = Runner(runner.store, runner.environment, replace(runner.run, run_id="other"))
    other.run_stage("numbers:a")
    assert json.loads(runner.store.read(outcome_key("other", "numbers:a")))["status"] == "hit"


def test_single_partition_is_built_without_a_seal(tmp_path: Path) -> None:
    runner = toy_runner(tmp_path)
    runner.run_stage("numbers:a")
    node = runner.run.nodes["squares"]
    assert runner.missing_partitions(node) == (0, 1, 2)
    assert runner.run_stage("squares", partition=1).status == "built"
    assert runner.run_stage("squares", partition=1).status == "hit"
    assert runner.missing_partitions(node) == (0, 2)
    assert runner.find("squares") is None
    assert not runner.store.exists(outcome_key("toy", "squares"))


def test_partition_count_follows_from_input_and_section(tmp_path: Path) -> None:
    for num_examples, size, count in ((10, 4, 3), (8, 4, 2), (1, 4, 1)):
        runner = toy_runner(tmp_path, num_examples=num_examples, partition_size=size)
        runner.run_stage("numbers:a")
        assert runner.num_partitions(runner.run.nodes["squares"]) == count


def test_full_disk_leaves_no_record_and_goes_on_once_there_is_room(small_disk: Path) -> None:
    runner = toy_runner(small_disk, num_examples=100_000)  # their list is 0.6 MB
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 600_000)
    with pytest.raises(OSError, match="No space left") as caught:
        runner.run_stage("numbers:a")
    assert caught.value.errno == errno.ENOSPC
    assert stored(small_disk, "numbers/*/record.json") == []
    assert list((small_disk / "scratch").iterdir()) == []
    assert list((small_disk / "store/.unfinished").iterdir()) == []
    filler.unlink()
    assert toy_runner(small_disk, num_examples=100_000).run_stage("numbers:a").status == "built"


# --- several processes ------------------------------------------------------------------------------------------------


def test_eight_processes_build_a_stage_once(tmp_path: Path, start: Start, undisturbed: dict[str, Artifact]) -> None:
    control = Control(tmp_path / "control")
    control.order("hold numbers")
    children = [start(run_stage, tmp_path, "numbers:a") for _ in range(8)]
    wait_until(lambda: control.count("half-way numbers"), "one of them to take the stage")
    control.lift("hold numbers")
    results = [child.result() for child in children]
    assert sorted(status for status, _ in results) == ["built", *["hit"] * 7]
    assert {digest for _, digest in results} == {undisturbed["numbers:a"].record.digest}
    assert control.count("half-way numbers") == 1


def test_workers_share_partitions_and_seal_once(tmp_path: Path, start: Start, undisturbed: dict[str, Artifact]) -> None:
    toy_runner(tmp_path).run_stage("numbers:a")
    control = Control(tmp_path / "control")
    for partition in range(3):
        control.order(f"hold squares {partition}")
    children = [start(run_stage, tmp_path, "squares") for _ in range(3)]
    wait_until(
        lambda: all(control.count(f"half-way squares {partition}") for partition in range(3)), "a partition a worker"
    )
    for partition in range(3):
        control.lift(f"hold squares {partition}")
    results = [child.result() for child in children]
    assert sorted(status for status, _ in results) == ["built", "hit", "hit"]
    assert [control.count(f"half-way squares {partition}") for partition in range(3)] == [1, 1, 1]
    assert {digest for _, digest in results} == {undisturbed["squares"].record.digest}


@pytest.mark.parametrize(
    ("node_id", "moment"), [("numbers:a", "numbers"), ("squares", "squares 1"), ("total", "total")]
)
def test_killed_builder_is_taken_over_at_once_with_the_same_bytes(
    tmp_path: Path, start: Start, undisturbed: dict[str, Artifact], node_id: str, moment: str
) -> None:
    for before in NODES[: NODES.index(node_id)]:
        toy_runner(tmp_path).run_stage(before)
    control = Control(tmp_path / "control")
    control.order(f"hold {moment}")
    child = start(run_stage, tmp_path, node_id)
    wait_until(lambda: control.count(f"half-way {moment}"), "the stage to be half-way")
    child.kill()
    assert list((tmp_path / "scratch").iterdir()) != []

    control.lift(f"hold {moment}")
    started = time.monotonic()
    result = toy_runner(tmp_path).run_stage(node_id)
    assert time.monotonic() - started < 30, "waited for the lease of a dead process (its TTL is 60 s)"
    assert result.status == "built"
    assert contents(result.artifact) == contents(undisturbed[node_id])
    assert result.artifact.record.digest == undisturbed[node_id].record.digest
    assert list((tmp_path / "scratch").iterdir()) == []


def test_stopped_owner_wakes_up_after_a_takeover_and_harms_nothing(
    tmp_path: Path, start: Start, undisturbed: dict[str, Artifact]
) -> None:
    settings = {"lease_ttl_seconds": 1.0}
    control = Control(tmp_path / "control")
    control.order("hold numbers")
    owner = start(run_stage, tmp_path, "numbers:a", settings)
    wait_until(lambda: control.count("half-way numbers"), "the owner to be half-way")
    owner.stop()
    control.lift("hold numbers")
    twin = start(run_stage, tmp_path, "numbers:a", settings)
    assert twin.result() == ("built", undisturbed["numbers:a"].record.digest)
    (record,) = stored(tmp_path, "numbers/*/record.json")
    committed = record.read_bytes()
    owner.resume()
    assert owner.result() == ("hit", undisturbed["numbers:a"].record.digest)
    assert record.read_bytes() == committed
    assert b"attempts/2/" in committed
    assert b"attempts/1/" not in committed
    assert contents(run_all(toy_runner(tmp_path))["numbers:a"]) == contents(undisturbed["numbers:a"])


def test_living_owner_is_waited_for_beyond_the_ttl(tmp_path: Path, start: Start) -> None:
    settings = {"lease_ttl_seconds": 1.5}
    control = Control(tmp_path / "control")
    control.order("hold numbers")
    owner = start(run_stage, tmp_path, "numbers:a", settings)
    wait_until(lambda: control.count("half-way numbers"), "the owner to be half-way")
    waiter = start(run_stage, tmp_path, "numbers:a", settings)
    num_beats, started = beats(tmp_path), time.monotonic()
    wait_until(
        lambda: beats(tmp_path) > num_beats + 5 and time.monotonic() - started > 2.5, "the heartbeat to outlast the TTL"
    )
    assert len(stored(tmp_path, "numbers/*/lease/*")) == 1
    control.lift("hold numbers")
    assert owner.result()[0] == "built"
    assert waiter.result()[0] == "hit"
    assert control.count("half-way numbers") == 1


def test_waiting_longer_than_the_timeout_asks_to_try_again(tmp_path: Path, start: Start) -> None:
    control = Control(tmp_path / "control")
    control.order("hold numbers")
    owner = start(run_stage, tmp_path, "numbers:a")
    wait_until(lambda: control.count("half-way numbers"), "the owner to be half-way")
    with pytest.raises(TryAgainError, match="is still being built by") as caught:
        toy_runner(tmp_path, {"stage_timeout_seconds": 0.3}).run_stage("numbers:a")
    assert caught.value.exit_code == 75
    assert str(owner.pid) in caught.value.message
    control.lift("hold numbers")
    assert owner.result()[0] == "built"


def test_error_in_another_process_keeps_its_parts(tmp_path: Path, start: Start) -> None:
    Control(tmp_path / "control").order("break numbers")
    child: Any = start(run_stage, tmp_path, "numbers:a")
    with pytest.raises(BadDataError) as caught:
        child.result()
    assert (caught.value.message, caught.value.remedy) == ("numbers was told to fail.", "Lift the order.")
