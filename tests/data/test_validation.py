import hashlib

import pyarrow as pa
import pytest

from xmas_job.data.defects import Defect
from xmas_job.data.examples import Turn
from xmas_job.data.images import ImageInfo
from xmas_job.data.readers import Row
from xmas_job.data.validation import ExampleRow, QuarantineRow, build_example_row
from xmas_job.storage.schemas import EXAMPLES, QUARANTINE

INFOS = {
    "a.png": ImageInfo("aa" * 32, 640, 480, "RGB", "PNG", 1),
    "b.gif": ImageInfo("bb" * 32, 20, 10, "P", "GIF", 4),
    "gone.png": Defect("missing_image", "gone.png"),
    "cut.png": Defect("truncated_image", "OSError: image file is truncated"),
}
TURNS = (Turn("user", "Same as this?", 2), Turn("assistant", "No"))


def built(*paths: str) -> ExampleRow | QuarantineRow:
    turns = TURNS if paths else (Turn("user", "Same as this?"), Turn("assistant", "No"))
    row = Row(5, None, "pets", paths, turns)
    return build_example_row(row, INFOS, source_uri="landing/p/v1/a.json", image_root="landing/p/v1/images")


def test_row_with_images_becomes_one_table_row() -> None:
    images = f'["{"bb" * 32}","{"aa" * 32}"]'
    identity = '{"images":' + images + ',"turns":[["user","Same as this?",2],["assistant","No",0]]}'
    assert built("b.gif", "a.png") == ExampleRow(
        uid=hashlib.sha256(identity.encode()).hexdigest()[:32],
        source="pets",
        orig_id=None,
        source_uri="landing/p/v1/a.json",
        source_row=5,
        image_uris=["landing/p/v1/images/b.gif", "landing/p/v1/images/a.png"],
        image_sha256=["bb" * 32, "aa" * 32],
        image_modes=["P", "RGB"],
        image_formats=["GIF", "PNG"],
        width=20,
        height=10,
        num_turns=2,
        conversation=TURNS,
        text_sha256=hashlib.sha256(b'[["user","Same as this?",2],["assistant","No",0]]').hexdigest(),
        modality="image",
    )


def test_text_only_row_has_no_size() -> None:
    row = built()
    assert isinstance(row, ExampleRow)
    assert (row.width, row.height, row.image_uris, row.modality) == (None, None, [], "text")
    assert (row.image_sha256, row.image_modes, row.image_formats) == ([], [], [])


@pytest.mark.parametrize(
    ("path", "reason", "detail"),
    [
        ("gone.png", "missing_image", "gone.png"),
        ("cut.png", "truncated_image", "cut.png: OSError: image file is truncated"),
    ],
)
def test_one_bad_image_quarantines_the_row_and_is_named(path: str, reason: str, detail: str) -> None:
    row = built("a.png", path)
    assert row == QuarantineRow("landing/p/v1/a.json", 5, reason, detail)  # type: ignore[arg-type]


def test_rows_go_into_the_tables_as_they_are() -> None:
    for row, schema in [(built("b.gif", "a.png"), EXAMPLES), (built("gone.png"), QUARANTINE)]:
        assert list(row._fields) == [name for name in schema.names if name != "num_words"]
        table = pa.table({name: pa.array([getattr(row, name)], schema.field(name).type) for name in row._fields})
        assert table.num_rows == 1
    conversation = pa.array([TURNS], EXAMPLES.field("conversation").type).to_pylist()
    assert conversation == [[turn._asdict() for turn in TURNS]]
