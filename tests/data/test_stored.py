"""Examples and images read back from what ingest stored."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.stages.workbench import Workbench, example_row, llava_row, picture
from xmas_job.config import IngestSection
from xmas_job.data import stored
from xmas_job.data.examples import Example, Turn
from xmas_job.data.stored import image_loader, read_examples, read_rows, to_examples
from xmas_job.errors import BadDataError
from xmas_job.stages import ingest
from xmas_job.storage import tables

RED, BLUE = picture("red"), picture((0, 0, 200), (4, 6))


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


def test_rows_of_several_versions_are_one_an_example_sorted_by_uid(bench: Workbench) -> None:
    rows_first = [example_row("b", source="late", source_row=5), example_row("b", source="early", source_row=2)]
    first = bench.examples("d@v1", [*rows_first, example_row("d", source_row=0)])
    second = bench.examples("d@v2", [example_row("a"), example_row("b", source="v2"), example_row("c", "text")])
    rows = read_rows([first, second], ["source"])
    assert rows.column_names[:4] == ["uid", "source", "source_uri", "source_row"]
    assert rows["uid"].to_pylist() == ["a", "b", "c", "d"]
    # The first version named comes first, and in it the earlier row.
    assert rows["source"].to_pylist() == ["coco", "early", "coco", "coco"]
    assert read_rows([second, first], ["source"])["source"].to_pylist() == ["coco", "v2", "coco", "coco"]


def test_rows_become_examples_in_their_order(bench: Workbench) -> None:
    version = bench.examples("d@v1", [example_row("a"), example_row("t", "text")])
    rows = read_rows([version], ["conversation", "image_uris"])
    assert to_examples(rows) == [
        Example("a", (Turn("user", "What is a?", 1), Turn("assistant", "a")), ("landing/d/v1/a.png",)),
        Example("t", (Turn("user", "What is t?"), Turn("assistant", "t"))),
    ]


def test_only_wanted_examples_and_their_images_are_read(bench: Workbench) -> None:
    version = bench.examples("d@v1", [example_row(uid) for uid in "abcd"])
    examples, digests = read_examples([version], pa.array(["d", "b", "z"]))
    assert [example.uid for example in examples] == ["b", "d"]
    assert digests == {"landing/d/v1/b.png": "sha-b", "landing/d/v1/d.png": "sha-d"}
    assert read_examples([version], pa.array([], pa.string())) == ([], {})


def test_examples_are_the_same_however_many_are_turned_at_once(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = [("system", "Be brief.", 0), ("user", "Two?", 2), ("assistant", "Yes", 0)]
    long = example_row("b") | {"conversation": talk, "image_uris": ["landing/1.png", "landing/2.png"]}
    version = bench.examples("d@v1", [example_row("a"), long, example_row("c", "text"), example_row("d")])
    rows = read_rows([version], ["conversation", "image_uris"]).slice(1)
    expected = [
        Example("b", tuple(Turn(*turn) for turn in talk), ("landing/1.png", "landing/2.png")),  # type: ignore[arg-type]
        Example("c", (Turn("user", "What is c?"), Turn("assistant", "c"))),
        Example("d", (Turn("user", "What is d?", 1), Turn("assistant", "d")), ("landing/d/v1/d.png",)),
    ]
    for at_once in (1, 2, 3, 4096):
        monkeypatch.setattr(stored, "_EXAMPLES_AT_ONCE", at_once)
        assert to_examples(rows) == expected


def test_wanted_rows_of_all_row_groups_are_read(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROWS_PER_GROUP", 2)
    version = bench.examples("d@v1", [example_row(uid) for uid in "aabcdefg"])
    wanted = ["a", "d", "e", "g", "z"]
    rows = read_rows([version], ["conversation"], pa.array(wanted))
    everything = read_rows([version], ["conversation"])
    assert rows["uid"].to_pylist() == ["a", "d", "e", "g"]
    assert rows.equals(everything.filter(pc.is_in(everything["uid"], pa.array(wanted))))


def test_all_images_of_an_example_have_a_digest(bench: Workbench) -> None:
    row = example_row("a") | {"image_uris": ["landing/1.png", "landing/2.png"], "image_sha256": ["one", "two"]}
    _, digests = read_examples([bench.examples("d@v1", [row])])
    assert digests == {"landing/1.png": "one", "landing/2.png": "two"}


def test_image_is_loaded_as_it_was_ingested(bench: Workbench) -> None:
    landing = bench.land("d@v1", {"d.json": [llava_row(0, "blue.png")]}, {"blue.png": BLUE})
    version = bench.run(ingest.run, IngestSection(image_root="landing/d/v1"), key="d@v1", landing=landing)
    (example,), digests = read_examples([version])
    image = image_loader(bench.store, digests)(example.image_uris[0])
    assert (image.mode, image.size) == ("RGB", (4, 6))
    assert image.getpixel((0, 0)) == (0, 0, 200)


@pytest.mark.parametrize(
    ("now", "message"), [(RED, "has changed since it was ingested"), (None, "is gone since")], ids=["changed", "gone"]
)
def test_image_that_changed_since_is_refused(bench: Workbench, now: bytes | None, message: str) -> None:
    landing = bench.land("d@v1", {"d.json": [llava_row(0, "blue.png")]}, {"blue.png": BLUE})
    version = bench.run(ingest.run, IngestSection(image_root="landing/d/v1"), key="d@v1", landing=landing)
    _, digests = read_examples([version])
    if now is None:
        bench.store.delete("landing/d/v1/blue.png")
    else:
        bench.store.put("landing/d/v1/blue.png", now)
    with pytest.raises(BadDataError, match=message) as caught:
        image_loader(bench.store, digests)("landing/d/v1/blue.png")
    assert "blue.png" in caught.value.message
    assert "new version" in caught.value.remedy  # deleting it would not bring it back
