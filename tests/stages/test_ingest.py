"""One landed version with real image files, whole and broken."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.stages.workbench import Workbench, llava_row, picture, rows_of
from xmas_job.config import IngestSection
from xmas_job.data.examples import Turn, compute_uid
from xmas_job.data.images import inspect_many
from xmas_job.errors import BadDataError, UsageError
from xmas_job.stage_io import Source
from xmas_job.stages import ingest
from xmas_job.storage.record import Artifact

RED, BLUE = picture("red"), picture("blue", (20, 10), "JPEG")
IMAGES = {"coco/red.png": RED, "coco/blue.jpg": BLUE}


def config(max_quarantine_fraction: float = 0.5, image_root: str = "landing/pets/v1", **changes: Any) -> IngestSection:
    return IngestSection(max_quarantine_fraction=max_quarantine_fraction, image_root=image_root, **changes)


def encoded_grey() -> bytes:
    stream = io.BytesIO()
    Image.new("L", (6, 6), 90).save(stream, "PNG")
    return stream.getvalue()


def ingested(bench: Workbench, landing: Source, section: IngestSection | None = None) -> Artifact:
    return bench.run(ingest.run, section or config(), key="pets@v1", landing=landing)


def test_landed_rows_become_a_table_with_their_images_by_hand(bench: Workbench) -> None:
    seen, told = llava_row(7, "coco/blue.jpg", "What is it?", "A cat."), llava_row("t", None, "Why?", "So.")
    made = ingested(bench, bench.land("pets@v1", {"data.json": [seen, told]}, IMAGES))
    digest = hashlib.sha256(BLUE).hexdigest()
    turns = (Turn("user", "What is it?", 1), Turn("assistant", "A cat.", 0))
    uid = compute_uid(turns, [digest])
    rows = rows_of(made, "examples.parquet")
    assert [row["uid"] for row in rows] == sorted(row["uid"] for row in rows)
    (found,) = [row for row in rows if row["uid"] == uid]
    assert found | {"text_sha256": ""} == {
        "uid": uid,
        "source": "coco",
        "orig_id": "7",
        "source_uri": "landing/pets/v1/data.json",
        "source_row": 0,
        "image_uris": ["landing/pets/v1/coco/blue.jpg"],
        "image_sha256": [digest],
        "image_modes": ["RGB"],
        "image_formats": ["JPEG"],
        "width": 20,
        "height": 10,
        "num_turns": 2,
        "conversation": [turn._asdict() for turn in turns],
        "text_sha256": "",
        "num_words": 5,
        "modality": "image",
    }
    (text,) = [row for row in rows if row["uid"] != uid]
    assert (text["modality"], text["source"], text["image_uris"], text["width"]) == ("text", "text", [], None)
    assert rows_of(made, "quarantine.parquet") == []
    counts = {"num_rows": 2, "num_examples": 2, "num_quarantined": 0, "num_images": 1}
    assert made.record.metrics == {**counts, "num_shown_images": 1, "num_words": 7}
    assert bench.progress[-1] == (len((bench.root / "landing/pets/v1/data.json").read_bytes()),) * 2


def test_mode_and_true_format_of_every_image_are_kept_in_order(bench: Workbench) -> None:
    question = "<image>\n<image>\n<image>\nSame?"
    row = llava_row(0, None, question) | {"image": ["grey.png", "named.jpg", "blue.jpg"]}
    # A PNG that is called .jpg, as downloads often are, and a grey one.
    images = {"named.jpg": RED, "blue.jpg": BLUE, "grey.png": encoded_grey()}
    made = ingested(bench, bench.land("pets@v1", {"data.json": [row, llava_row("t", None)]}, images))
    found = rows_of(made, "examples.parquet", ["modality", "image_modes", "image_formats"])
    assert sorted(found, key=lambda row: str(row["modality"])) == [
        {"modality": "image", "image_modes": ["L", "RGB", "RGB"], "image_formats": ["PNG", "PNG", "JPEG"]},
        {"modality": "text", "image_modes": [], "image_formats": []},
    ]


def test_broken_rows_and_images_are_quarantined_with_their_reason(bench: Workbench) -> None:
    images = {
        **IMAGES,
        "cut.png": picture("red", (64, 64))[:-30],
        "page.jpg": b"<html>not found</html>",
        "empty.png": b"",
        "large.png": picture("red", (40, 40)),
    }
    rows = [
        llava_row(0, "coco/red.png"),
        llava_row(1, "cut.png"),
        llava_row(2, "page.jpg"),
        llava_row(3, "empty.png"),
        llava_row(4, "gone.png"),
        llava_row(5, "large.png"),
        llava_row(6, "../other/red.png"),
        llava_row(7, "coco/blue.jpg", answer=" "),
        "no row at all",
        llava_row(9, "coco/blue.jpg"),
    ]
    # 40 x 40 pixels are too many here; the torn image claims as many and is looked at first.
    landing = bench.land("pets@v1", {"data.json": rows}, images)
    made = ingested(bench, landing, config(0.9, max_image_pixels=64 * 64))
    quarantined = rows_of(made, "quarantine.parquet")
    assert [(row["source_row"], row["reason"]) for row in quarantined] == [
        (1, "truncated_image"),
        (2, "not_an_image"),
        (3, "empty_image"),
        (4, "missing_image"),
        (6, "image_path_outside_root"),
        (7, "empty_answer"),
        (8, "not_an_object"),
    ]
    assert {row["source_uri"] for row in quarantined} == {"landing/pets/v1/data.json"}
    assert "cut.png" in quarantined[0]["detail"]
    assert made.record.metrics["num_examples"] == 3
    small = ingested(bench, landing, config(0.9, max_image_pixels=39 * 40))
    reasons = {row["source_row"]: row["reason"] for row in rows_of(small, "quarantine.parquet")}
    assert reasons[5] == "too_many_pixels"


def test_link_out_of_the_image_root_is_quarantined(bench: Workbench, tmp_path: Path) -> None:
    landing = bench.land("pets@v1", {"data.json": [llava_row(0, "coco/red.png"), llava_row(1, "secret.png")]}, IMAGES)
    outside = tmp_path / "secret.png"
    outside.write_bytes(RED)
    (bench.root / "landing/pets/v1/secret.png").symlink_to(outside)
    (bench.root / "landing/pets/v1/inside.png").symlink_to("coco/red.png")
    (row,) = rows_of(ingested(bench, landing), "quarantine.parquet")
    assert (row["source_row"], row["reason"]) == (1, "image_path_outside_root")


def test_images_may_lie_elsewhere_under_landing(bench: Workbench) -> None:
    landing = bench.land("pets@v1", {"data.json": [llava_row(0, "coco/red.png")]})
    bench.store.put("landing/pictures/coco/red.png", RED)
    made = ingested(bench, landing, config(image_root="landing/pictures"))
    assert rows_of(made, "examples.parquet", ["image_uris"]) == [{"image_uris": ["landing/pictures/coco/red.png"]}]


def test_missing_image_root_is_refused_with_the_option_to_name_it(bench: Workbench) -> None:
    landing = bench.land("pets@v1", {"data.json": [llava_row(0, "a.png"), llava_row(1, "b.png")]})
    with pytest.raises(UsageError, match=r"none of the 2 images is under .*landing/pets/v1") as caught:
        ingested(bench, landing, config(1.0))
    assert "image_roots" in caught.value.remedy


def test_everything_quarantined_is_refused_whatever_the_limit(bench: Workbench) -> None:
    landing = bench.land("pets@v1", {"data.json": [llava_row(0, "coco/red.png", answer="")] * 3}, IMAGES)
    with pytest.raises(BadDataError, match=r"3 of 3 rows of landing/pets/v1 are bad.*3 x empty_answer"):
        ingested(bench, landing, config(1.0))


def test_limit_exceeded_names_the_top_reasons_and_the_first_row(bench: Workbench) -> None:
    bad = [llava_row(0, "gone.png")] * 3 + [llava_row(0, None, answer="")] * 2 + [{}] + ["x"] * 4
    landing = bench.land("pets@v1", {"data.json": [*[llava_row(0, "coco/red.png")] * 10, *bad]}, IMAGES)
    with pytest.raises(BadDataError) as caught:
        ingested(bench, landing, config(0.49))
    message = caught.value.message
    assert message.startswith("10 of 20 rows of landing/pets/v1 are bad, the limit is 49.0%: 4 x not_an_object")
    assert "3 x missing_image (There is no such image file.)" in message
    assert "2 x empty_answer" in message
    assert "no_conversation" not in message  # the fourth
    assert "First: row 10 of landing/pets/v1/data.json: gone.png" in message
    assert "max_quarantine_fraction" in caught.value.remedy
    # Exactly at the limit is allowed.
    assert ingested(bench, landing, config(0.5)).record.metrics["num_quarantined"] == 10


def test_rows_of_several_data_files_keep_their_place(bench: Workbench) -> None:
    lines = b'{"id": 1, "conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}\n'
    files = {"b.jsonl": lines + lines, "a.json": [llava_row(0, "coco/red.png")], "notes.txt": b"?", "old/c.json": b"["}
    made = ingested(bench, bench.land("pets@v1", files, IMAGES))
    places = [(row["source_uri"].rpartition("/")[2], row["source_row"]) for row in rows_of(made, "examples.parquet")]
    assert sorted(places) == [("a.json", 0), ("b.jsonl", 0), ("b.jsonl", 1)]
    # The two equal lines are two rows of one example: pool drops the second.
    counts = {"num_rows": 3, "num_examples": 2, "num_quarantined": 0, "num_images": 1}
    assert made.record.metrics == {**counts, "num_shown_images": 1, "num_words": 7}


def test_same_landing_gives_the_same_bytes_in_any_chunks(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [llava_row(row, "coco/red.png", f"What {row}?") for row in range(20)] + [llava_row(9, "gone.png")] * 2
    landing = bench.land("pets@v1", {"data.json": rows}, IMAGES)
    once = ingested(bench, landing)
    inspected: list[str] = []

    def inspect_and_note(paths: Iterable[str], *arguments: Any, **options: Any) -> Any:
        inspected.extend(paths)
        return inspect_many(paths, *arguments, **options)

    monkeypatch.setattr(ingest, "ROWS_AT_ONCE", 3)
    monkeypatch.setattr(ingest, "inspect_many", inspect_and_note)
    assert ingested(bench, landing).record.digest == once.record.digest
    assert sorted(inspected) == ["coco/red.png", "gone.png"]  # each once, not once a chunk


def test_progress_moves_while_the_images_of_a_chunk_are_decoded(bench: Workbench) -> None:
    names = [f"{number:03d}.png" for number in range(100)]
    rows = [llava_row(name, name) for name in names]
    files = {"a.json": rows[:50], "b.json": rows[50:]}
    ingested(bench, bench.land("pets@v1", files, dict.fromkeys(names, RED)))
    first, total = (sum(len(json.dumps(some)) for some in part) for part in ([rows[:50]], [rows[:50], rows[50:]]))
    done = [done for done, _ in bench.progress]
    # Decoded 32 at a time: each file is one chunk, seen half-way and at its end.
    assert done == sorted(done)
    assert {whole for _, whole in bench.progress} == {total}
    assert done[0] == first * 32 // 50
    assert first + (total - first) * 32 // 50 in done
    assert done[-1] == total


@pytest.mark.parametrize("files", [{}, {"data.csv": b"1,2"}, {"sub/data.json": [llava_row(0, None)]}])
def test_version_without_a_data_file_is_refused(bench: Workbench, files: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"landing/pets/v1 has no \.json or \.jsonl file"):
        ingested(bench, bench.land("pets@v1", files, IMAGES))


def test_version_without_rows_is_refused(bench: Workbench) -> None:
    with pytest.raises(BadDataError, match="landing/pets/v1 has no rows"):
        ingested(bench, bench.land("pets@v1", {"data.json": []}))


def test_empty_data_file_is_refused_by_its_name(bench: Workbench) -> None:
    landing = bench.land("pets@v1", {"a.json": [llava_row(0, None)], "b.json": b""})
    with pytest.raises(BadDataError, match=r"landing/pets/v1/b\.json.* is empty"):
        ingested(bench, landing)


def test_list_that_is_cut_off_is_refused_by_its_name(bench: Workbench) -> None:
    landing = bench.land("pets@v1", {"a.json": b'[{"id": 1'})
    with pytest.raises(BadDataError, match=r"landing/pets/v1/a\.json"):
        ingested(bench, landing)


def test_landing_that_changed_since_the_run_started_is_refused(bench: Workbench) -> None:
    landing = bench.land("pets@v1", {"data.json": [llava_row(0, "coco/red.png")]}, IMAGES)
    with pytest.raises(UsageError, match="has changed since the run started"):
        ingested(bench, Source(landing.uri, "as it was"))
