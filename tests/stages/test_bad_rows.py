"""What landing zones are known to hold, through the real stage: kept as it should be, or set aside by name."""

from __future__ import annotations

import codecs
import hashlib
import io
import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.stages.workbench import Workbench, llava_row, picture, rows_of
from xmas_job.config import IngestSection
from xmas_job.data.images import load_rgb
from xmas_job.data.readers import MAX_ROW_BYTES
from xmas_job.errors import BadDataError
from xmas_job.stages import ingest
from xmas_job.storage.record import Artifact

SECTION = IngestSection(max_quarantine_fraction=1.0, image_root="landing/odd/v1")
SIDEWAYS = 6
"""EXIF: the camera was turned by 90 degrees."""


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def header(width: int, height: int) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)


def sideways() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = SIDEWAYS
    return encoded(Image.new("RGB", (12, 8), "red"), "JPEG", exif=exif)


def animation() -> bytes:
    frames = [Image.new("RGB", (9, 7), colour) for colour in ("red", "green", "blue")]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


PIXELS = zlib.compress(b"\0" + bytes(3))
TEXT_BOMB = b"Comment\0\0" + zlib.compress(bytes(80 * 2**20))
RED = picture("red", (64, 64))

GOOD_IMAGES: dict[str, tuple[bytes, tuple[str, str, int, int]]] = {
    # name -> bytes, (mode, true format, width, height)
    "plain.png": (RED, ("RGB", "PNG", 64, 64)),
    "really-a-png.jpg": (RED, ("RGB", "PNG", 64, 64)),
    "no-extension": (picture("red", (5, 4), "JPEG"), ("RGB", "JPEG", 5, 4)),
    "print.jpg": (encoded(Image.new("CMYK", (6, 5), (0, 255, 255, 0)), "JPEG"), ("CMYK", "JPEG", 6, 5)),
    "deep.png": (encoded(Image.new("I;16", (7, 6), 40_000)), ("I;16", "PNG", 7, 6)),
    "moving.gif": (animation(), ("P", "GIF", 9, 7)),
    "sideways.jpg": (sideways(), ("RGB", "JPEG", 8, 12)),
    "dir/naïve name.png": (picture("red", (3, 2)), ("RGB", "PNG", 3, 2)),
}
BAD_IMAGES: dict[str, tuple[bytes, str]] = {
    "zero.jpg": (b"", "empty_image"),
    "page.jpg": (b"<!DOCTYPE html><html><body>403 Forbidden</body></html>", "not_an_image"),
    "half.png": (RED[: len(RED) // 2], "truncated_image"),
    "half.jpg": (picture("red", (64, 64), "JPEG")[:-40], "truncated_image"),
    "bomb.png": (png(header(60_000, 60_000), (b"IDAT", PIXELS), (b"IEND", b"")), "too_many_pixels"),
    "text-bomb.png": (
        png(header(1, 1), (b"IDAT", PIXELS), (b"zTXt", TEXT_BOMB), (b"IEND", b"")),
        "undecodable_image",
    ),
}
BAD_PATHS = {
    "../v2/plain.png": "image_path_outside_root",
    "dir/../../v2/plain.png": "image_path_outside_root",
    "/etc/passwd": "image_path_absolute",
    "C:\\pictures\\cat.png": "image_path_absolute",
    "http://169.254.169.254/latest/meta-data": "image_is_url",
    "file:///etc/passwd": "image_is_url",
    "s3://bucket/cat.png": "image_is_url",
    "data:image/png;base64,iVBORw0KGgo=": "image_is_url",
    "gone.png": "missing_image",
    "dir": "missing_image",
    "pipe.png": "missing_image",
    "plain.png/inside.png": "missing_image",
    "link-out.png": "image_path_outside_root",
    "linked/secret.png": "image_path_outside_root",
    "circle.png": "image_path_outside_root",
    "a" * 300: "image_path_too_long",
    "nul\0.png": "nul_character",
}


def line(row: Any) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode()


def text(answer: str) -> bytes:
    return line(llava_row("t", None, answer=answer))


ROWS: list[tuple[bytes, str]] = [
    # line -> "" for kept, or the reason
    *[(line(llava_row(name, name, f"What is {name}?")), "") for name in GOOD_IMAGES],
    *[(line(llava_row(name, name)), reason) for name, (_, reason) in BAD_IMAGES.items()],
    *[(line(llava_row(path, path)), reason) for path, reason in BAD_PATHS.items()],
    (text("A cat."), ""),
    (text("Ein Kätzchen 🐈"), ""),
    (text("pair").replace(b"pair", b"\\ud83d\\ude00"), ""),
    (text("tab").replace(b"tab", b"a\tb\x01"), ""),
    (codecs.BOM_UTF8 + text("A mark in the middle of the file."), ""),
    (text("giant " * (MAX_ROW_BYTES // 6)), "row_too_long"),
    (text("raw nul").replace(b" nul", b"\0"), "nul_character"),
    (text("nul").replace(b"nul", b"\\u0000"), "nul_character"),
    (text("half").replace(b"half", b"\\ud800"), "lone_surrogate"),
    (text("latin").replace(b"latin", b"caf\xe9"), "invalid_utf8"),
    (text("overlong").replace(b"overlong", b"\xc0\x80"), "invalid_utf8"),
    (text("twice").replace(b'{"id"', b'{"id": 1, "id"'), "duplicate_key"),
    (text("twice").replace(b'"value": "twice"', b'"value": "a", "value": "b"'), "duplicate_key"),
]


def landed(bench: Workbench, tmp_path: Path, file: str, data: bytes) -> Artifact:
    """The rows ingested beside every image, and links that lead out of the image root."""
    images = {name: content for name, (content, _) in {**GOOD_IMAGES, **BAD_IMAGES}.items()}
    landing = bench.land("odd@v1", {file: data}, images)
    bench.store.put("landing/odd/v2/plain.png", RED)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.png").write_bytes(RED)
    folder = bench.root / landing.uri
    (folder / "link-out.png").symlink_to(outside / "secret.png")
    (folder / "linked").symlink_to(outside)
    (folder / "circle.png").symlink_to("circle.png")
    os.mkfifo(folder / "pipe.png")
    return bench.run(ingest.run, SECTION, key="odd@v1", landing=landing)


def outcomes(made: Artifact) -> dict[int, str]:
    kept = {row["source_row"]: "" for row in rows_of(made, "examples.parquet", ["source_row"])}
    return kept | {row["source_row"]: row["reason"] for row in rows_of(made, "quarantine.parquet")}


def test_every_row_of_json_lines_is_kept_or_has_its_reason(bench: Workbench, tmp_path: Path) -> None:
    lines = [data for data, _ in ROWS]
    data = codecs.BOM_UTF8 + b"\n".join(lines) + b"\r\n \n" + lines[-3][:-20]  # the last line is cut off
    expected = [reason for _, reason in ROWS] + ["truncated_row"]
    made = landed(bench, tmp_path, "data.jsonl", data)
    assert outcomes(made) == dict(enumerate(expected))
    assert made.record.metrics["num_rows"] == len(expected)


def test_every_row_of_a_json_list_is_kept_or_has_its_reason(bench: Workbench, tmp_path: Path) -> None:
    rows = [(data.removeprefix(codecs.BOM_UTF8), reason) for data, reason in ROWS]
    made = landed(bench, tmp_path, "data.json", codecs.BOM_UTF8 + b"[" + b",\n".join(data for data, _ in rows) + b"]")
    assert outcomes(made) == dict(enumerate(reason for _, reason in rows))


def test_odd_but_whole_images_are_kept_as_what_they_are(bench: Workbench, tmp_path: Path) -> None:
    data = b"\n".join(line(llava_row(name, name)) for name in GOOD_IMAGES)
    made = landed(bench, tmp_path, "data.jsonl", data)
    found = {row["orig_id"]: row for row in rows_of(made, "examples.parquet")}
    assert found.keys() == GOOD_IMAGES.keys()
    for name, (content, (mode, kind, width, height)) in GOOD_IMAGES.items():
        row = found[name]
        assert row["image_uris"] == [f"landing/odd/v1/{name}"]
        assert row["image_sha256"] == [hashlib.sha256(content).hexdigest()]
        assert (row["image_modes"], row["image_formats"]) == ([mode], [kind])
        assert (row["width"], row["height"]) == (width, height)
        # What training will see is upright RGB of that size.
        pixels = load_rgb(content)
        assert (pixels.mode, pixels.size) == ("RGB", (width, height))


def test_kept_texts_are_the_landed_ones(bench: Workbench, tmp_path: Path) -> None:
    made = landed(bench, tmp_path, "data.jsonl", b"\n".join(data for data, reason in ROWS if not reason))
    answers = {row["conversation"][1]["text"] for row in rows_of(made, "examples.parquet", ["conversation"])}
    assert answers == {"A cat.", "Ein Kätzchen 🐈", "😀", "a\tb\x01", "A mark in the middle of the file."}


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_file_in_another_encoding_is_refused(bench: Workbench, tmp_path: Path, name: str) -> None:
    with pytest.raises(BadDataError, match=r"is UTF-16 text") as caught:
        landed(bench, tmp_path, name, json.dumps([llava_row(0, None)]).encode("utf-16"))
    assert "Convert it to UTF-8" in caught.value.remedy


def test_list_that_is_cut_off_names_its_place(bench: Workbench, tmp_path: Path) -> None:
    whole = json.dumps([llava_row(number, None) for number in range(3)]).encode()
    with pytest.raises(BadDataError, match=r"data\.json: odd is cut off or broken: .* in row 2"):
        landed(bench, tmp_path, "data.json", whole[:-10])
