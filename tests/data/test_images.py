import hashlib
import io
import struct
import threading
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xmas_job.data.defects import Defect, DefectError
from xmas_job.data.images import ImageInfo, check_image_path, inspect_image, inspect_many, load_rgb, resolve_inside
from xmas_job.errors import BadDataError

MAX_PIXELS = 10_000
QUADRANTS = np.kron(
    np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8), np.ones((16, 24, 1), np.uint8)
)  # (32, 48, 3): red, green / blue, yellow


def encoded(image: Image.Image, format_: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format_, **options)
    return stream.getvalue()


def picture() -> Image.Image:
    return Image.fromarray(QUADRANTS)


def inspected(data: bytes) -> ImageInfo:
    info = inspect_image(data, max_pixels=MAX_PIXELS)
    assert isinstance(info, ImageInfo), info
    return info


def refused(data: bytes, max_pixels: int = MAX_PIXELS) -> str:
    defect = inspect_image(data, max_pixels=max_pixels)
    assert isinstance(defect, Defect), defect
    return defect.reason


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing: whoever decodes it fails in another way than by its size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


JPEG = encoded(picture(), "JPEG", quality=95)
GIF = encoded(
    picture(), "GIF", save_all=True, append_images=[Image.new("RGB", (48, 32)), Image.new("RGB", (48, 32), 1)]
)


class TestInspect:
    def test_whole_image_is_described(self) -> None:
        assert inspected(JPEG) == ImageInfo(hashlib.sha256(JPEG).hexdigest(), 48, 32, "RGB", "JPEG", 1)

    def test_animation_is_described_by_its_first_frame(self) -> None:
        info = inspected(GIF)
        assert (info.format, info.num_frames, info.width) == ("GIF", 3, 48)

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
    def test_every_png_mode_is_kept(self, mode: str) -> None:
        image = picture().convert("L").convert("I;16") if mode == "I;16" else picture().convert(mode)
        assert inspected(encoded(image)).mode == mode

    @pytest.mark.parametrize(
        ("orientation", "size"),
        [(1, (48, 32)), (3, (48, 32)), (5, (32, 48)), (6, (32, 48)), (7, (32, 48)), (8, (32, 48))],
    )
    def test_size_is_the_upright_one(self, orientation: int, size: tuple[int, int]) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(picture(), "JPEG", exif=exif)
        info = inspected(data)
        assert (info.width, info.height) == size == load_rgb(data).size

    def test_pixel_limit_is_checked_before_decoding(self) -> None:
        assert refused(png_header(101, 100)) == "too_many_pixels"
        assert refused(png_header(100, 100)) != "too_many_pixels"
        assert refused(png_header(60_000, 60_000), max_pixels=10**12) == "too_many_pixels"

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "empty_image"),
            (b"<!DOCTYPE html><html>404</html>", "not_an_image"),
            (b"\xff\xd8\xff", "not_an_image"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_an_image"),
            (JPEG[: len(JPEG) // 2], "truncated_image"),
            (JPEG[:-20], "truncated_image"),
            (encoded(picture())[:-40], "truncated_image"),
            (encoded(picture(), "TIFF")[:-100], "truncated_image"),
            (encoded(Image.fromarray(np.zeros((8, 8), np.float32)), "TIFF"), "unsupported_image_mode"),
        ],
    )
    def test_unusable_file_has_its_reason(self, data: bytes, reason: str) -> None:
        assert refused(data) == reason

    @pytest.mark.filterwarnings("ignore::UserWarning:PIL")
    def test_no_damage_to_a_file_escapes_as_an_exception(self) -> None:
        rng = np.random.default_rng(0)
        seen: Counter[str] = Counter()
        for source in (JPEG, GIF, encoded(picture()), encoded(picture(), "WEBP"), encoded(picture(), "TIFF")):
            for _ in range(60):
                data = bytearray(source)
                for place in rng.integers(0, len(data), 12):
                    data[place] = rng.integers(256)
                info = inspect_image(bytes(data), max_pixels=MAX_PIXELS)
                seen["kept" if isinstance(info, ImageInfo) else info.reason] += 1
                if isinstance(info, ImageInfo):
                    assert load_rgb(bytes(data)).size == (info.width, info.height)
        assert seen["undecodable_image"] > 10
        assert seen["kept"] > 10


def corners(data: bytes) -> list[tuple[int, ...]]:
    """Upper left, upper right, lower left, lower right, rounded to multiples of 51 (JPEG is not exact)."""
    image = load_rgb(data)
    assert image.mode == "RGB"
    pixels = np.asarray(image).astype(int)
    return [tuple((np.round(pixels[y, x] / 51) * 51).tolist()) for y in (4, -5) for x in (4, -5)]


RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)


class TestLoadRgb:
    @pytest.mark.parametrize(
        ("mode", "format_"),
        [("RGB", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("RGB", "WEBP"), ("RGB", "BMP"), ("RGB", "GIF")],
    )
    def test_colours_survive_every_mode(self, mode: str, format_: str) -> None:
        options = {"lossless": True} if format_ == "WEBP" else {}
        assert corners(encoded(picture().convert(mode), format_, **options)) == [RED, GREEN, BLUE, YELLOW]

    def test_cmyk_jpeg_keeps_its_colours(self) -> None:
        assert corners(encoded(picture().convert("CMYK"), "JPEG", quality=100, subsampling=0)) == [
            RED,
            GREEN,
            BLUE,
            YELLOW,
        ]

    @pytest.mark.parametrize(
        ("orientation", "expected"),
        [
            (1, [RED, GREEN, BLUE, YELLOW]),
            (2, [GREEN, RED, YELLOW, BLUE]),
            (3, [YELLOW, BLUE, GREEN, RED]),
            (6, [BLUE, RED, YELLOW, GREEN]),
            (8, [GREEN, YELLOW, RED, BLUE]),
        ],
    )
    def test_picture_stands_upright(self, orientation: int, expected: list[tuple[int, ...]]) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        assert corners(encoded(picture(), "PNG", exif=exif)) == expected

    @pytest.mark.parametrize(("mode", "format_"), [("I;16", "PNG"), ("I;16", "TIFF"), ("I;16B", "TIFF"), ("I", "PPM")])
    def test_sixteen_bit_grey_keeps_its_high_byte(self, mode: str, format_: str) -> None:
        grey = np.array([[0, 255, 256, 0x7FFF, 0x8000, 0xFFFF]], ">u2" if mode == "I;16B" else "<u2")
        image = Image.frombytes(mode, (6, 1), grey.tobytes()) if mode != "I" else Image.fromarray(grey.astype(np.int32))
        data = encoded(image, format_)
        assert inspected(data).mode == mode
        assert np.asarray(load_rgb(data))[0, :, 1].tolist() == [0, 0, 1, 127, 128, 255]

    def test_transparent_pixels_stand_on_white(self) -> None:
        image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
        image.putpixel((1, 0), (0, 0, 0, 255))
        assert np.asarray(load_rgb(encoded(image)))[0].tolist() == [[255, 255, 255], [0, 0, 0]]
        assert np.asarray(load_rgb(encoded(image.convert("LA"))))[0].tolist() == [[255] * 3, [0] * 3]

    def test_first_frame_of_an_animation_is_taken(self) -> None:
        assert corners(GIF) == [RED, GREEN, BLUE, YELLOW]

    def test_file_that_changed_since_ingest_says_so(self) -> None:
        with pytest.raises(BadDataError, match="truncated_image") as caught:
            load_rgb(JPEG[:-20])
        assert "land it again" in caught.value.remedy


class TestPaths:
    @pytest.mark.parametrize(
        ("path", "checked"),
        [
            ("a.jpg", "a.jpg"),
            ("./coco//train/a.jpg", "coco/train/a.jpg"),
            ("..a/b..jpg", "..a/b..jpg"),
            ("a:b/c?d#e.jpg", "a:b/c?d#e.jpg"),
            ("ä ö/%2e%2e/x.jpg", "ä ö/%2e%2e/x.jpg"),
            ("x" * 255, "x" * 255),
        ],
    )
    def test_safe_path_is_kept_without_idle_parts(self, path: str, checked: str) -> None:
        assert check_image_path(path) == checked

    @pytest.mark.parametrize(
        ("path", "reason"),
        [
            ("", "bad_image_field"),
            ("./.", "bad_image_field"),
            ("/etc/passwd", "image_path_absolute"),
            ("//host/share", "image_path_absolute"),
            ("C:\\a.jpg", "image_path_absolute"),
            ("c:/a.jpg", "image_path_absolute"),
            ("..", "image_path_outside_root"),
            ("a/../../b.jpg", "image_path_outside_root"),
            ("a/..", "image_path_outside_root"),
            ("http://host/a.jpg", "image_is_url"),
            ("S3://bucket/a.jpg", "image_is_url"),
            ("file:///etc/passwd", "image_is_url"),
            ("data:image/png;base64,iVBO", "image_is_url"),
            ("a\0b", "nul_character"),
            ("\udcff.jpg", "lone_surrogate"),
            ("x" * 256, "image_path_too_long"),
            ("ä" * 128, "image_path_too_long"),
            ("a/" * 512 + "b", "image_path_too_long"),
        ],
    )
    def test_unsafe_path_is_refused(self, path: str, reason: str) -> None:
        with pytest.raises(DefectError) as caught:
            check_image_path(path)
        assert caught.value.defect.reason == reason

    def test_link_out_of_the_root_is_refused_and_one_inside_is_followed(self, tmp_path: Path) -> None:
        root, outside = tmp_path / "root", tmp_path / "root-of-another"
        root.mkdir()
        outside.mkdir()
        (root / "a.jpg").write_bytes(b"a")
        (root / "inside.jpg").symlink_to("a.jpg")
        (root / "leak").symlink_to(outside)
        assert resolve_inside(root, "inside.jpg") == (root / "a.jpg").resolve()
        for missing in ("gone.jpg", "."):
            with pytest.raises(DefectError, match="missing_image"):
                resolve_inside(root, missing)
        with pytest.raises(DefectError) as caught:
            resolve_inside(root, "leak/secret.jpg")
        assert caught.value.defect.reason == "image_path_outside_root"

    def test_root_that_is_itself_a_link_is_fine(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "real" / "a.jpg").write_bytes(b"a")
        (tmp_path / "root").symlink_to("real")
        assert resolve_inside(tmp_path / "root", "a.jpg") == (tmp_path / "real" / "a.jpg").resolve()


FILES = {f"{number:03d}.png": encoded(Image.new("RGB", (number + 1, 2))) for number in range(100)}


class TestInspectMany:
    def read(self, path: str) -> bytes:
        if path == "folder":
            raise IsADirectoryError(path)
        if path == "leak":
            raise DefectError("image_path_outside_root", path)
        try:
            return FILES[path]
        except KeyError:
            raise FileNotFoundError(path) from None

    def found(self, paths: list[str], num_workers: int = 3) -> dict[str, ImageInfo | Defect]:
        return inspect_many(
            paths, self.read, max_pixels=MAX_PIXELS, num_workers=num_workers, on_progress=lambda _done, _total: None
        )

    def test_result_depends_neither_on_order_nor_on_workers(self) -> None:
        paths = [*FILES, "gone", "folder", "leak"]
        expected = self.found(paths, num_workers=1)
        assert list(expected) == sorted(paths)
        assert self.found(paths[::-1] * 2, num_workers=8) == expected
        assert list(self.found(paths[::-1])) == list(expected)
        assert [expected[name].width for name in FILES] == list(range(1, 101))  # type: ignore[union-attr]

    def test_file_that_cannot_be_read_has_its_reason(self) -> None:
        found = self.found(["gone", "folder", "leak"])
        assert found == {
            "folder": Defect("missing_image", "folder"),
            "gone": Defect("missing_image", "gone"),
            "leak": Defect("image_path_outside_root", "leak"),
        }

    def test_each_distinct_path_is_opened_once_and_progress_reaches_the_total(self) -> None:
        opened: Counter[str] = Counter()
        lock = threading.Lock()

        def read(path: str) -> bytes:
            with lock:
                opened[path] += 1
            return FILES[path]

        progress: list[tuple[int, int]] = []
        inspect_many(
            list(FILES) * 3,
            read,
            max_pixels=MAX_PIXELS,
            num_workers=4,
            on_progress=lambda done, total: progress.append((done, total)),
        )
        assert opened == Counter(list(FILES))
        assert progress[-1] == (100, 100)
        assert progress == sorted(progress)
        assert len(progress) > 1

    def test_fault_of_the_machinery_ends_the_call(self) -> None:
        def read(path: str) -> bytes:
            raise PermissionError(path)

        with pytest.raises(PermissionError):
            inspect_many(FILES, read, max_pixels=9, num_workers=2, on_progress=lambda _done, _total: None)

    def test_nothing_to_inspect_is_no_work(self) -> None:
        assert self.found([]) == {}
