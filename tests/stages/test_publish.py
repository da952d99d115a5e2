"""A selection from a ranking written by hand, on landed data that are really there."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.stages.workbench import Workbench, llava_row, make_run, picture, rows_of
from xmas_job.config import IngestSection, PoolConfig, PublishConfig, SelectConfig
from xmas_job.data.examples import compute_uid
from xmas_job.data.readers import Row, llava
from xmas_job.errors import BadDataError, QualityGateError, UsageError
from xmas_job.fingerprint import digest_of
from xmas_job.stages import ingest, pool, publish
from xmas_job.storage import channels
from xmas_job.storage.local import LocalStore
from xmas_job.storage.manifest import parse_manifest, verify_files
from xmas_job.storage.output import Output
from xmas_job.storage.record import Artifact
from xmas_job.storage.schemas import RANKING

COLOURS = ["red", "green", "blue", "black", "white", "gray", "cyan", "pink"]
IMAGES = {f"images/{colour}.png": picture(colour) for colour in COLOURS}
ROWS = [
    *(llava_row(number, f"images/{colour}.png", "Which?", colour) for number, colour in enumerate(COLOURS)),
    llava_row("t0", None, "Why?", "So."),
    llava_row("t1", None, "Why not?", "So there."),
]
ORDER = ["red", "green", "So.", "blue", "black", "white", "So there.", "gray", "cyan", "pink"]
"""Answers in the order of the ranking; each belongs to one example."""
CLUSTERS = {"red": 0, "blue": 0, "white": 0, "cyan": 0, "pink": 0, "green": 4, "black": 4, "gray": 4}
"""Five, three, and two text-only examples without a cluster."""


@dataclass
class World:
    bench: Workbench
    ingested: Artifact
    pool: Artifact
    uids: dict[str, str]
    """Answer -> uid."""

    def ranking(
        self,
        order: Sequence[str],
        num_eligible: int = 10,
        ranks: Sequence[int] | None = None,
        told: Any = None,
        **section: Any,
    ) -> Artifact:
        rows: list[dict[str, Any]] = [
            {
                "uid": self.uids[answer],
                "rank": rank,
                "stratum": "image" if answer in CLUSTERS else "text",
                "cluster": CLUSTERS.get(answer, -1),
                "instability": None,
                "rank_in_cluster": 1,
            }
            for rank, answer in zip(ranks or range(1, len(order) + 1), order, strict=True)
        ]
        table = pa.Table.from_pylist(sorted(rows, key=lambda row: row["uid"]), RANKING)
        select = SelectConfig(**section).identity()

        def fill(output: Output) -> None:
            output.table("ranking.parquet", table, RANKING)
            output.json("method.json", {**select, "num_eligible": num_eligible, **(told or {})})

        metrics = {"num_eligible": num_eligible, "num_ranked": len(order), "num_absent": 0}
        return self.bench.write("select", fill, metrics=metrics, section=select)

    def publish(self, budget: str, ranking: Artifact | None = None, **inputs: Artifact) -> Artifact:
        found: dict[str, Any] = {
            "pool": self.pool,
            "ranking": ranking or self.ranking(ORDER),
            "ingest": self.ingested,
            **inputs,
        }
        return self.bench.run(publish.run, PublishConfig(budget=budget), key="subset", **found)

    def answers(self, artifact: Artifact) -> set[str]:
        by_uid = {uid: answer for answer, uid in self.uids.items()}
        return {by_uid[row["uid"]] for row in rows_of(artifact, "subset.parquet", ["uid"])}


def make_world(folder: Path, excluded: Callable[[dict[str, str]], tuple[str, ...]] = lambda _: ()) -> World:
    bench = Workbench(folder)
    # A row twice, and one that is broken.
    rows = [*ROWS, ROWS[0], llava_row("bad", "images/gone.png")]
    landing = bench.land("pets@v1", {"data.json": rows}, IMAGES)
    section = IngestSection(image_root=landing.uri, max_quarantine_fraction=0.2)
    ingested = bench.run(ingest.run, section, key="pets@v1", landing=landing)
    found = rows_of(ingested, "examples.parquet", ["uid", "conversation"])
    uids = {row["conversation"][-1]["text"]: row["uid"] for row in found}
    pooled = bench.run(pool.run, PoolConfig(excluded_uids=excluded(uids)), ingest=ingested)
    return World(bench, ingested, pooled, uids)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """For tests that publish; each makes artifacts of its own."""
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def fresh(tmp_path: Path) -> World:
    """For tests that release: selections and channels start empty."""
    return make_world(tmp_path)


def test_subset_is_the_prefix_with_weights_by_hand(world: World) -> None:
    made = world.publish("40%")
    rows = {row["uid"]: row for row in rows_of(made, "subset.parquet")}
    assert list(rows) == sorted(rows)
    # Chosen: red and blue of five, green of three, "So." of two. Sizes over chosen are 2.5, 3, 2; their mean is 2.5.
    expected = {"red": (1, 0, 1.0), "green": (2, 4, 1.2), "So.": (3, -1, 0.8), "blue": (4, 0, 1.0)}
    assert {uid: (row["rank"], row["cluster"], row["weight"]) for uid, row in rows.items()} == {
        world.uids[answer]: (rank, cluster, pytest.approx(weight, rel=1e-12))
        for answer, (rank, cluster, weight) in expected.items()
    }
    assert sum(row["weight"] for row in rows.values()) / 4 == pytest.approx(1, rel=1e-12)
    red = rows[world.uids["red"]]
    assert (red["source"], red["orig_id"], red["source_row"]) == ("images", "0", 0)
    assert red["source_uri"] == "landing/pets/v1/data.json"
    assert made.record.metrics["num_examples"] == 4
    assert rows_of(made, "ranking.parquet") == rows_of(world.ranking(ORDER), "ranking.parquet")


def test_weights_of_a_ranking_that_holds_only_the_choice_are_the_same(world: World) -> None:
    """A method that is not nested tells the sizes of its clusters beside its choice."""
    chosen = world.ranking(ORDER[:4], told={"cluster_sizes": [[-1, 2], [0, 5], [4, 3]]})
    whole, alone = (
        {row["uid"]: row["weight"] for row in rows_of(world.publish("4", ranking), "subset.parquet")}
        for ranking in (world.ranking(ORDER), chosen)
    )
    assert whole == pytest.approx(alone, rel=1e-12)
    assert len(set(whole.values())) > 1


@pytest.mark.parametrize(("budget", "size"), [("1", 1), ("25%", 2), ("0.39", 3), ("10", 10), ("100%", 10), ("1%", 1)])
def test_size_is_exact(world: World, budget: str, size: int) -> None:
    made = world.publish(budget)
    assert world.answers(made) == set(ORDER[:size])


def test_smaller_budget_is_part_of_a_larger_one(world: World) -> None:
    subsets = [world.answers(world.publish(str(size))) for size in range(1, 11)]
    assert all(small < large for small, large in pairwise(subsets))


def test_budget_is_a_share_of_what_is_eligible_not_of_what_is_ranked(world: World) -> None:
    made = world.publish("50%", world.ranking(ORDER[:6], num_eligible=9))
    assert made.record.metrics["num_examples"] == 4
    with pytest.raises(UsageError, match="budget 7 is 7 examples, but only 6 could be ranked"):
        world.publish("7", world.ranking(ORDER[:6], num_eligible=9))
    with pytest.raises(UsageError, match="budget 11 is above the pool"):
        world.publish("11")


def test_manifest_says_what_the_inputs_determine(world: World) -> None:
    proxy = world.bench.write("train_proxy", lambda output: output.json("positions.json", []))
    ranking = world.ranking(ORDER, params={"small_clusters": "drop"}, seed=3)
    made = world.publish("40%", ranking, proxy=proxy)
    manifest = json.loads(made.read("manifest.json"))
    files = {file["path"]: file for file in manifest.pop("files")}
    assert manifest == {
        "schema_version": 1,
        "selection_id": made.record.metrics["selection_id"],
        "snapshot": {
            "id": digest_of([world.ingested.record.digest])[:32],
            "datasets": ["pets@v1"],
            "num_examples": 10,
            "num_quarantined": 1,
            "num_duplicates": 1,
            "num_excluded": 0,
        },
        "request": {"budget": "40%"},
        "resolved": {"num_examples": 4, "fraction": 0.4},
        "method": {"name": "xmas", "params": {"small_clusters": "drop"}, "seed": 3, "text_only": "proportional"},
        "proxy": {"digest": proxy.record.digest},
        "strata": [
            {"name": "image", "num_pool": 8, "num_selected": 3},
            {"name": "text", "num_pool": 2, "num_selected": 1},
        ],
        "checks": [
            {"name": "examples_off_the_budget", "status": "passed", "value": 0.0, "limit": 0.0},
            {"name": "repeated_examples", "status": "passed", "value": 0.0, "limit": 0.0},
            {"name": "examples_outside_the_pool", "status": "passed", "value": 0.0, "limit": 0.0},
            {"name": "weight_mean_error", "status": "passed", "value": pytest.approx(0, abs=1e-9), "limit": 1e-9},
        ],
    }
    assert {path: file["rows"] for path, file in files.items()} == {
        "exports/llava.json": 4,
        "ranking.parquet": 10,
        "subset.parquet": 4,
    }


def read_but(artifact: Artifact, broken: str, path: str) -> bytes:
    return artifact.read(path) + b"x" * (path == broken)


def test_manifest_verifies_and_notices_any_change(world: World) -> None:
    made = world.publish("40%")
    manifest = parse_manifest(made.read("manifest.json"), where="here")
    assert verify_files(manifest, made.read, where="here") == 3
    for broken in ("subset.parquet", "ranking.parquet", "exports/llava.json"):
        with pytest.raises(BadDataError, match=broken):
            verify_files(manifest, partial(read_but, made, broken), where="here")
    with pytest.raises(BadDataError, match="was edited"):
        parse_manifest(made.read("manifest.json").replace(b'"40%"', b'"41%"'), where="here")


def test_export_is_read_back_to_the_same_uids(world: World) -> None:
    made = world.publish("60%")
    exported = made.read("exports/llava.json")
    rows = list(llava.read(io.BytesIO(exported), name="pets"))
    digests = {
        uri: digest
        for row in rows_of(world.ingested, "examples.parquet")
        for uri, digest in zip(row["image_uris"], row["image_sha256"], strict=True)
    }
    uids = []
    for row in rows:
        assert isinstance(row, Row)
        assert all((world.bench.root / "landing" / path).is_file() for path in row.image_paths)
        uids.append(compute_uid(row.turns, [digests[f"landing/{path}"] for path in row.image_paths]))
    assert uids == [row["uid"] for row in rows_of(made, "subset.parquet")]
    assert {record["id"] for record in json.loads(exported)} == {"0", "1", "t0", "2", "3", "4"}


def test_equal_inputs_give_equal_bytes(tmp_path: Path) -> None:
    made = [make_world(tmp_path / name).publish("40%") for name in ("here", "there")]
    assert made[0].record.digest == made[1].record.digest
    assert made[0].read("manifest.json") == made[1].read("manifest.json")
    world = make_world(tmp_path / "elsewhere")
    assert world.publish("30%").record.metrics["selection_id"] != made[0].record.metrics["selection_id"]
    # As asked, not as resolved: the same examples asked for otherwise are another request.
    assert world.publish("4").record.metrics["selection_id"] != made[0].record.metrics["selection_id"]


def test_taken_down_example_does_not_pass_the_gate(tmp_path: Path) -> None:
    world = make_world(tmp_path, excluded=lambda uids: (uids["green"],))
    assert world.publish("1").record.metrics["num_examples"] == 1  # the gate looks at the subset
    with pytest.raises(QualityGateError, match="examples_outside_the_pool is 1, limit 0") as caught:
        world.publish("4")
    assert caught.value.exit_code == 65


def test_repeated_example_does_not_pass_the_gate(world: World) -> None:
    with pytest.raises(QualityGateError, match="repeated_examples is 1, limit 0"):
        world.publish("4", world.ranking(["red", "green", "red", "blue", "black"]))


@pytest.mark.parametrize("ranks", [[1, 2, 2, 3, 4], [1, 2, 4, 5, 6], [0, 1, 2, 3, 4]])
def test_ranks_that_miss_the_budget_do_not_pass_the_gate(world: World, ranks: list[int]) -> None:
    with pytest.raises(QualityGateError, match="examples_off_the_budget is 1, limit 0"):
        world.publish("3", world.ranking(ORDER[:5], ranks=ranks))


def test_changed_ranking_file_is_refused(world: World) -> None:
    ranking = world.ranking(ORDER)
    other = world.ranking(ORDER[::-1])
    world.bench.store.copy(other.key("ranking.parquet"), ranking.key("ranking.parquet"))
    with pytest.raises(BadDataError, match="has other bytes than were recorded"):
        world.publish("4", ranking)


def test_output_holds_no_manifest_when_the_gate_fails(world: World) -> None:
    outputs: list[Output] = []

    def run(section: PublishConfig, stage_io: Any) -> Any:
        outputs.append(stage_io.output)
        return publish.run(section, stage_io)

    ranking = world.ranking(["red", "green", "red", "blue", "black"])
    with pytest.raises(QualityGateError):
        world.bench.run(run, PublishConfig(budget="4"), pool=world.pool, ranking=ranking, ingest=world.ingested)
    assert outputs[0].files == {}


# --- release -------------------------------------------------------------------------------------------------------


class FullDisk(LocalStore):
    """A store whose every write fails after the first few."""

    def __init__(self, root: Path, num_writes: int) -> None:
        super().__init__(root)
        self._left = num_writes

    def copy(self, source: str, target: str) -> None:
        self._spend()
        super().copy(source, target)

    def create(self, key: str, data: bytes) -> bool:
        self._spend()
        return super().create(key, data)

    def put(self, key: str, data: bytes) -> None:
        self._spend()
        super().put(key, data)

    def _spend(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise OSError(28, "No space left on device")


def published_files(world: World) -> dict[str, bytes]:
    prefix = world.bench.root / "selections"
    return {path.relative_to(prefix).as_posix(): path.read_bytes() for path in prefix.rglob("*") if path.is_file()}


def test_release_copies_the_selection_and_moves_the_channel(fresh: World) -> None:
    made = fresh.publish("40%")
    selection_id = str(made.record.metrics["selection_id"])
    publish.release(made, make_run(channel="weekly"), "subset")
    files = published_files(fresh)
    names = ["exports/llava.json", "manifest.json", "ranking.parquet", "subset.parquet"]
    assert sorted(files) == sorted(f"{selection_id}/{name}" for name in [*names, "provenance.json"])
    assert all(files[f"{selection_id}/{name}"] == made.read(name) for name in names)
    provenance = json.loads(files[f"{selection_id}/provenance.json"])
    assert (provenance["run"], provenance["artifact"]) == ("r1", made.address)
    move = channels.current(fresh.bench.store, "weekly")
    assert move is not None
    assert (move.selection, move.run) == (selection_id, "r1")


def test_release_again_changes_nothing(fresh: World) -> None:
    made = fresh.publish("40%")
    publish.release(made, make_run(), "subset")
    before = published_files(fresh)
    publish.release(made, make_run(), "subset")
    publish.release(made, make_run("r2"), "subset")
    assert published_files(fresh) == before
    assert [entry.key for entry in fresh.bench.store.list("channels")] == ["channels/latest/000000000001.json"]


def test_another_selection_moves_the_channel_on(fresh: World) -> None:
    made = [fresh.publish(budget) for budget in ("40%", "30%")]
    for number, artifact in enumerate(made):
        publish.release(artifact, make_run(f"r{number}"), "subset")
    assert len(list(fresh.bench.store.list("channels"))) == 2
    move = channels.current(fresh.bench.store, "latest")
    assert move is not None
    assert move.selection == made[1].record.metrics["selection_id"]


@pytest.mark.parametrize("arm", ["random.0", "full"])
def test_baseline_arms_are_not_released(fresh: World, arm: str) -> None:
    publish.release(fresh.publish("40%"), make_run(), arm)
    assert not (fresh.bench.root / "selections").exists()
    assert channels.current(fresh.bench.store, "latest") is None


@pytest.mark.parametrize("num_writes", range(6))
def test_manifest_comes_last_wherever_a_release_breaks_off(fresh: World, num_writes: int) -> None:
    made = fresh.publish("40%")
    full = Artifact(FullDisk(fresh.bench.root, num_writes), made.address, made.record, made.node_id)
    with pytest.raises(OSError, match="No space left"):
        publish.release(full, make_run(), "subset")
    manifest = f"{made.record.metrics['selection_id']}/manifest.json"
    found = published_files(fresh)
    assert len(found) == num_writes
    assert (manifest in found) == (num_writes == 5)
    assert channels.current(fresh.bench.store, "latest") is None
    publish.release(made, make_run(), "subset")
    assert manifest in published_files(fresh)
    assert channels.current(fresh.bench.store, "latest") is not None


@pytest.mark.parametrize("path", ["subset.parquet", "ranking.parquet", "exports/llava.json", "manifest.json"])
def test_damaged_file_is_not_published(fresh: World, path: str) -> None:
    made = fresh.publish("40%")
    key = made.key(path)
    fresh.bench.store.put(key, fresh.bench.store.read(key)[:-1] + b"?")
    with pytest.raises(BadDataError, match="has other bytes than were recorded"):
        publish.release(made, make_run(), "subset")
    assert not any(name.endswith("manifest.json") for name in published_files(fresh))
    assert channels.current(fresh.bench.store, "latest") is None
