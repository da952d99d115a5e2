"""The stages that load a model, each once on tiny models and a dozen examples: proxy, extract, target, evaluate."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.extraction.alignment_reference import Reference
from tests.stages.model_world import SHADES, TRAINING, World, extracted
from tests.stages.workbench import llava_row, rows_of
from xmas_job.config import (
    EvaluateConfig,
    IngestSection,
    LoraConfig,
    PoolConfig,
    ProxyConfig,
    TargetConfig,
)
from xmas_job.data.stored import read_examples
from xmas_job.errors import BadDataError, TryAgainError
from xmas_job.extraction.layout import absent_path, checkpoints_of, signal_path, signals_of
from xmas_job.fingerprint import digest_of_folder
from xmas_job.models.adapter import LVLM
from xmas_job.stage_io import Source, StageIO
from xmas_job.stages import evaluate, extract, ingest, pool, train_proxy, train_target
from xmas_job.storage.output import Output
from xmas_job.storage.record import Artifact
from xmas_job.storage.schemas import SUBSET
from xmas_job.storage.tables import read_table

# --- train_proxy ---------------------------------------------------------------------------------------------------


def test_proxy_is_kept_before_training_and_at_every_checkpoint(world: World, proxy: Artifact) -> None:
    # Twelve examples in steps of five: half are seen after two steps, all after three.
    assert json.loads(proxy.read("positions.json")) == [
        {"checkpoint": 0, "global_step": 0, "fraction": 0.0},
        {"checkpoint": 1, "global_step": 2, "fraction": 10 / 12},
        {"checkpoint": 2, "global_step": 3, "fraction": 1.0},
    ]
    assert {path.partition("/")[0] for path in proxy.paths} == {
        "positions.json",
        "checkpoint-0000",
        "checkpoint-0001",
        "checkpoint-0002",
    }
    start = dict(LVLM.load(Path(world.model.uri)).model.named_parameters())
    models = [dict(LVLM.load(proxy.local_folder(f"checkpoint-{t:04d}")).model.named_parameters()) for t in range(3)]
    assert all(torch.equal(models[0][name], weight) for name, weight in start.items())
    (query,) = [name for name in start if name.endswith("layers.0.self_attn.q_proj.weight") and "language" in name]
    assert len({model[query].detach().numpy().tobytes() for model in models}) == 3
    (patches,) = [name for name in start if name.endswith("patch_embedding.weight")]
    assert all(torch.equal(model[patches], start[patches]) for model in models)
    assert proxy.record.metrics["num_examples"] == 12
    assert world.bench.progress.count((12, 12)) >= 1


def test_proxy_sees_the_pool_only(world: World) -> None:
    found = rows_of(world.ingested, "examples.parquet", ["uid"])
    taken_down = tuple(row["uid"] for row in found[:7])
    pooled = world.bench.run(pool.run, PoolConfig(excluded_uids=taken_down), ingest=world.ingested)
    section = ProxyConfig(model="m", num_checkpoints=1, training=TRAINING.model_copy(update={"num_epochs": 2}))
    made = world.bench.run(train_proxy.run, section, pool=pooled, ingest=world.ingested, model=world.model)
    assert made.record.metrics["num_examples"] == 10  # five, twice
    positions = json.loads(made.read("positions.json"))
    assert [(position["global_step"], position["fraction"]) for position in positions] == [(0, 0.0), (2, 1.0)]


# --- extract -------------------------------------------------------------------------------------------------------


def in_partition_order(world: World) -> list[str]:
    """Uids by image, then uid; text-only last."""
    rows = rows_of(world.ingested, "examples.parquet", ["uid", "image_sha256"])
    with_image = sorted((row["image_sha256"][0], row["uid"]) for row in rows if row["image_sha256"])
    return [uid for _, uid in with_image] + sorted(row["uid"] for row in rows if not row["image_sha256"])


def values_of(parts: list[Artifact], checkpoint: int) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {}
    for partition, part in enumerate(parts):
        rows = rows_of(part, signal_path(checkpoint, partition))
        assert [row["uid"] for row in rows] == sorted(row["uid"] for row in rows)
        values |= {row["uid"]: row["value"] for row in rows}
    return values


def test_partitions_follow_image_and_uid_with_text_only_last(world: World, parts: list[Artifact]) -> None:
    order = in_partition_order(world)
    reasons: dict[str, str] = {}
    for partition, part in enumerate(parts):
        absent = {row["uid"]: row["reason"] for row in rows_of(part, absent_path(partition))}
        scored = {row["uid"] for row in rows_of(part, signal_path(1, partition))}
        assert scored | absent.keys() == set(order[5 * partition : 5 * partition + 5])
        assert not scored & absent.keys()
        expected = {"num_examples": len(scored) + len(absent), "num_scored": len(scored), "num_absent": len(absent)}
        expected["num_split_batches"] = 0
        assert {name: part.record.metrics[name] for name in expected} == expected
        reasons |= absent
    assert {uid: reasons[uid] for uid in order[-2:]} == dict.fromkeys(order[-2:], "text_only")
    assert sorted(reasons.values()) == ["no_image_after_truncation", "text_only", "text_only"]


def test_checkpoints_one_to_t_are_extracted(parts: list[Artifact]) -> None:
    for partition, part in enumerate(parts):
        assert checkpoints_of(part) == [1, 2]  # not 0, which is no part of a trajectory
        assert part.paths == sorted([absent_path(partition), *(signal_path(t, partition) for t in (1, 2))])


def test_values_are_those_of_their_checkpoint(world: World, proxy: Artifact, parts: list[Artifact]) -> None:
    examples, _ = read_examples([world.ingested])
    by_uid = {example.uid: example for example in examples}
    for checkpoint in (1, 2):
        lvlm = LVLM.load(proxy.local_folder(f"checkpoint-{checkpoint:04d}"))
        reference = Reference(lvlm)
        found = values_of(parts, checkpoint)
        for uid in list(found)[::4]:
            images = [world.load_image(uri) for uri in by_uid[uid].image_uris]
            expected = reference.values(lvlm.encode(by_uid[uid], images, max_length=48))[:3]
            np.testing.assert_allclose(found[uid], expected, rtol=1e-5, atol=1e-6 * expected.sum())


def test_values_do_not_depend_on_the_partition_size(world: World, proxy: Artifact, parts: list[Artifact]) -> None:
    whole = extracted(world, proxy, 0, partition_size=1000, token_budget=10_000)
    for checkpoint in (1, 2):
        values = values_of([whole], checkpoint)
        others = values_of(parts, checkpoint)
        assert values.keys() == others.keys()
        for uid, value in values.items():
            assert sum(value) == pytest.approx(sum(others[uid]), rel=1e-6)


def test_same_partition_again_gives_the_same_bytes(world: World, proxy: Artifact, parts: list[Artifact]) -> None:
    assert extracted(world, proxy, 1).record.digest == parts[1].record.digest


def test_other_processes_load_the_same_bytes(
    world: World, proxy: Artifact, parts: list[Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They get the store, too, to read images from."""
    monkeypatch.setattr(world.bench, "environment", world.bench.environment.model_copy(update={"loaders": 1}))
    assert extracted(world, proxy, 1).record.digest == parts[1].record.digest


def test_a_gpu_gets_loaders_and_a_cpu_none_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    cases = [(None, "cpu"), (None, "cuda"), (0, "cuda"), (7, "cuda"), (2, "cpu")]
    assert [extract.num_loaders(asked, device) for asked, device in cases] == [0, 4, 0, 7, 2]
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert extract.num_loaders(None, "cuda") == 2


def test_signals_have_their_width_and_token_counts(parts: list[Artifact]) -> None:
    tables = [read_table(part, signal_path(1, partition)) for partition, part in enumerate(parts)]
    assert sorted(table.num_rows for table in tables) == [0, 4, 5]
    assert tables[2].num_rows == 0
    for table in tables:
        assert table.schema.field("value").type == pa.list_(pa.float32(), 3)
        assert set(table["num_image_tokens"].to_pylist()) <= {16}


def test_several_signals_are_written_side_by_side(world: World, proxy: Artifact, parts: list[Artifact]) -> None:
    made = extracted(world, proxy, 2, signals=("alignment", "loss", "mean_state"))
    assert signals_of(made) == ["alignment", "loss", "mean_state"]
    assert [checkpoints_of(made, name) for name in signals_of(made)] == [[1, 2]] * 3
    # The last partition has no image: two examples with a loss and a state, none with a score.
    uids = in_partition_order(world)[-2:]
    assert [row["uid"] for row in rows_of(made, absent_path(2, "alignment"))] == uids
    assert rows_of(made, absent_path(2, "loss")) == rows_of(made, absent_path(2, "mean_state")) == []
    states = rows_of(made, signal_path(1, 2, "mean_state"))
    assert [row["uid"] for row in states] == uids
    assert {len(row["value"]) for row in states} == {32}
    assert all(row["value"][0] > 0 for row in rows_of(made, signal_path(2, 2, "loss")))
    assert made.read(signal_path(1, 2)) == parts[2].read(signal_path(1, 2))


def test_a_checkpoint_without_its_manifest_or_with_a_file_cut_off_is_refused(world: World, proxy: Artifact) -> None:
    def write(output: Output, leave_out: str = "", cut: str = "") -> None:
        for path in proxy.paths:
            if path != leave_out:
                output.data(path, proxy.read(path)[: 100 if path == cut else None])

    manifest, weights = "checkpoint-0001/MANIFEST.json", "checkpoint-0002/model.safetensors"
    unfinished = world.bench.write("train_proxy", lambda output: write(output, leave_out=manifest))
    with pytest.raises(BadDataError, match=r"has no MANIFEST.json: it was never finished.*Train the proxy again"):
        extracted(world, unfinished, 0)
    truncated = world.bench.write("train_proxy", lambda output: write(output, cut=weights))
    with pytest.raises(BadDataError, match=r"model.safetensors has 100 bytes, not the \d+ that were saved"):
        extracted(world, truncated, 0)


def test_a_training_goes_on_from_an_earlier_attempt_and_its_record_names_the_files_of_both(
    world: World, proxy: Artifact
) -> None:
    section = ProxyConfig(model="m", num_checkpoints=2, training=TRAINING)
    address = f"artifacts/train_proxy/{'f' * 32}"

    def attempt(number: int, stop_at: int, **settings: Any) -> Output:
        scratch = world.bench.root.parent / f"attempt-{number}"
        scratch.mkdir()
        output = Output(world.bench.store, address, f"attempts/{number}", scratch)

        def progress(done: int, _total: int) -> None:
            if done == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)

        artifacts = {"pool": (world.pool,), "ingest": (world.ingested,)}
        environment = world.bench.environment.model_copy(update=settings)
        io = StageIO(world.bench.store, output, environment, progress, None, artifacts, {"model": (world.model,)})
        train_proxy.run(section, io)
        return output

    with pytest.raises(TryAgainError, match="after optimizer step 2"):
        attempt(1, stop_at=10)
    second = attempt(2, stop_at=-1)
    attempts = {path: file.location.split("/")[1] for path, file in second.files.items() if "MANIFEST" in path}
    assert attempts == {
        "checkpoint-0000/MANIFEST.json": "1",
        "checkpoint-0001/MANIFEST.json": "1",
        "checkpoint-0002/MANIFEST.json": "2",
    }
    assert {path: file.sha256 for path, file in second.files.items()} == {
        path: proxy.file(path).sha256 for path in proxy.paths
    }
    assert [key for key in keys_of(world, address) if "/resume/" in key]
    for clear_away in second.after_commit:
        clear_away()
    assert not [key for key in keys_of(world, address) if "/resume/" in key]


def keys_of(world: World, address: str) -> list[str]:
    return [entry.key for entry in world.bench.store.list(address)]


# --- train_target and evaluate -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taught(world: World) -> Source:
    """A model that learnt to answer "red", whatever is asked."""
    training = TRAINING.model_copy(update={"num_epochs": 6, "lr_schedule": "constant_with_warmup"})
    section = ProxyConfig(model="m", num_checkpoints=1, training=training)
    made = world.bench.run(train_proxy.run, section, pool=world.pool, ingest=world.ingested, model=world.model)
    checkpoint = made.local_folder("checkpoint-0001")
    return Source(str(checkpoint), digest_of_folder(checkpoint))


@pytest.fixture(scope="module")
def adapter(world: World, taught: Source) -> Artifact:
    columns = {name: [None] * 3 for name in SUBSET.names}
    columns["uid"] = pa.array([row["uid"] for row in rows_of(world.ingested, "examples.parquet", ["uid"])[2:5]])
    table = pa.table(columns).cast(SUBSET)
    subset = world.bench.write("publish", lambda output: output.table("subset.parquet", table, SUBSET))
    section = TargetConfig(
        model="m",
        lora=LoraConfig(rank=2, alpha=4, dropout=0.0),
        training=TRAINING.model_copy(update={"learning_rate": 1e-4}),
    )
    return world.bench.run(train_target.run, section, subset=subset, ingest=world.ingested, model=taught)


def test_target_is_an_adapter_trained_on_the_subset(adapter: Artifact) -> None:
    files = ["adapter/MANIFEST.json", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"]
    assert adapter.paths == files
    assert adapter.record.metrics["num_examples"] == 3
    assert adapter.record.metrics["num_steps"] == 1


def test_tables_of_an_evaluation_by_hand(world: World, taught: Source, adapter: Artifact) -> None:
    image = "images/0.png"
    answers = [("all", "Red.", image), ("all", "blue", image), ("gqa", " RED", None), ("gqa", "red", image)]
    rows = [
        {**llava_row(number, path, f"How many squares {number}?", answer), "source": source}
        for number, (source, answer, path) in enumerate(answers)
    ]
    landing = world.bench.land("held@v3", {"data.json": rows}, {image: SHADES[image]})
    held_out = world.bench.run(ingest.run, IngestSection(image_root=landing.uri), key="held@v3", landing=landing)
    section = EvaluateConfig(dataset="held@v3", max_new_tokens=4, batch_size=3)
    made = world.bench.run(evaluate.run, section, adapter=adapter, ingest=held_out, model=taught)
    predictions = rows_of(made, "predictions.parquet")
    assert [row["uid"] for row in predictions] == sorted(row["uid"] for row in predictions)
    assert {(row["source"], row["answer"], row["prediction"], row["correct"]) for row in predictions} == {
        ("all", "Red.", "red", True),
        ("all", "blue", "red", False),
        ("gqa", "RED", "red", True),
        ("gqa", "red", "red", True),
    }
    # Of 1 0 1 1 the mean is 3/4 and s = 1/2, over the root of 4; of 1 0 it is 1/2 and s^2 = 1/2, over 2.
    scores = [
        (row["source"], row["value"], row["standard_error"], row["num_examples"])
        for row in rows_of(made, "scores.parquet")
    ]
    assert scores == [
        (None, 0.75, pytest.approx(0.25), 4),
        ("all", 0.5, pytest.approx(0.5), 2),
        ("gqa", 1.0, 0.0, 2),
    ]
    assert {(row["benchmark"], row["metric"]) for row in rows_of(made, "scores.parquet")} == {("held", "exact_match")}
    assert made.record.metrics == {"num_examples": 4, "exact_match": 0.75, "standard_error": pytest.approx(0.25)}
