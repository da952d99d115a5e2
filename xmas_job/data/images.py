"""Image files: which paths are safe, what a file really holds, and its pixels as training sees them.

Owns every call of Pillow on landed bytes. Refuses to own where the bytes come from: callers give a function.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from xmas_job.data.defects import Defect, DefectError, check_characters
from xmas_job.errors import BadDataError
from xmas_job.progress import ProgressCallback

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""What Pillow may try. Choice: pixel formats only; its EPS reader would start Ghostscript on landed bytes."""

_RGB_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
_WIDE_MODES = frozenset({"I", "I;16", "I;16B"})
_SIDEWAYS = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|data:", re.ASCII)
_WINDOWS_DRIVE = re.compile(r"[A-Za-z]:[\\/]", re.ASCII)
_MAX_PATH_BYTES = 1024  # an S3 key
_MAX_NAME_BYTES = 255  # a file name on Linux
_MAX_BYTES_A_CHARACTER = 4
_IMAGES_A_TASK = 32


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What one decodable image file holds.

    Attributes:
        sha256: hex digest of the file's bytes.
        width: pixels, after the EXIF orientation is applied.
        height: pixels, after the EXIF orientation is applied.
        mode: Pillow's name of the pixel type in the file.
        format: the true format, whatever the file is called.
        num_frames: 1, or more for animations; only the first is used.
    """

    sha256: str
    width: int
    height: int
    mode: str
    format: str
    num_frames: int


# Paths


def check_image_path(path: str) -> str:
    """The path relative to the image root, without empty and `.` parts.

    Raises:
        DefectError: the path is empty, absolute, a URL, too long, leaves the root, or holds NUL or lone surrogates.
    """
    check_characters("image path", path)
    if ":" in path and _URL.match(path):
        raise DefectError("image_is_url", path)
    if path.startswith("/") or (":" in path and _WINDOWS_DRIVE.match(path)):
        raise DefectError("image_path_absolute", path)
    parts = path.split("/")
    if ".." in parts:
        raise DefectError("image_path_outside_root", path)
    if len(path) * _MAX_BYTES_A_CHARACTER > _MAX_NAME_BYTES:
        _check_length(path, parts)
    if "" in parts or "." in parts:
        path = "/".join([part for part in parts if part not in {"", "."}])
    if not path:
        raise DefectError("bad_image_field", "an image path names no file")
    return path


def _check_length(path: str, parts: list[str]) -> None:
    if len(path.encode()) > _MAX_PATH_BYTES or max(len(part.encode()) for part in parts) > _MAX_NAME_BYTES:
        raise DefectError("image_path_too_long", f"{len(path.encode())} bytes: {path}")


def resolve_inside(root: Path, path: str) -> Path:
    """The file of a checked path under a local image root, with symbolic links followed.

    Raises:
        DefectError: image_path_outside_root, if a link leads out of `root`; missing_image, if there is no such file.
    """
    try:
        resolved = (root / path).resolve()
    except (RuntimeError, OSError) as error:  # links in a circle
        raise DefectError("image_path_outside_root", f"{path}: {error}") from error
    if not resolved.is_relative_to(root.resolve()):
        raise DefectError("image_path_outside_root", f"{path} links to {resolved}")
    if not resolved.is_file():  # opening a pipe would wait for ever
        raise DefectError("missing_image", path)
    return resolved


# One file


def inspect_image(data: bytes, *, max_pixels: int) -> ImageInfo | Defect:
    """Decode a file fully, once, and say what it holds or why it cannot be used.

    `max_pixels` is compared with the size in the header, before anything is decoded. Pillow's own limit
    (2 * Image.MAX_IMAGE_PIXELS, 179 million) stays in force above it.
    """
    try:
        return _inspect(data, max_pixels)
    except DefectError as error:
        return error.defect


def _inspect(data: bytes, max_pixels: int) -> ImageInfo:
    image = _open(data)
    width, height = image.size
    if width * height > max_pixels:
        raise DefectError("too_many_pixels", f"{width} x {height} = {width * height}, over {max_pixels}")
    mode = image.mode
    if mode not in _RGB_MODES and mode not in _WIDE_MODES:
        raise DefectError("unsupported_image_mode", mode)
    sideways, num_frames = _load(image)
    return ImageInfo(
        sha256=hashlib.sha256(data).hexdigest(),
        width=height if sideways else width,
        height=width if sideways else height,
        mode=mode,
        format=str(image.format),
        num_frames=num_frames,
    )


def _open(data: bytes) -> Image.Image:
    if not data:
        raise DefectError("empty_image", "0 bytes")
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise DefectError("not_an_image", f"{len(data)} bytes, starting with {data[:24]!r}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DefectError("too_many_pixels", str(error)) from error
    except Exception as error:
        raise _undecodable(error) from error


def _load(image: Image.Image) -> tuple[bool, int]:
    """Decode; return (whether orientation swaps width and height, number of frames)."""
    try:
        image.load()
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        return orientation in _SIDEWAYS, getattr(image, "n_frames", 1)
    except Exception as error:
        raise _undecodable(error) from error


def _undecodable(error: Exception) -> DefectError:
    detail = f"{type(error).__name__}: {error}"
    return DefectError("truncated_image" if "truncated" in detail.lower() else "undecodable_image", detail)


def load_rgb(data: bytes) -> Image.Image:
    """The pixels training sees: first frame, upright by EXIF, 8-bit RGB.

    Choice: transparent pixels stand on white, as in Qwen's loader; LLaVA's drops the alpha, which turns black
    drawings on a transparent ground all black. 16-bit grey keeps its high byte; 32-bit integers are taken as 16-bit.
    Differs: LLaVA's loader ignores the EXIF orientation.

    Raises:
        BadDataError: the bytes are no usable image; ingest has refused such files, so they changed since.
    """
    try:
        image = _open(data)
        _load(image)
        return _to_rgb(ImageOps.exif_transpose(image))
    except DefectError as error:
        raise BadDataError(
            f"An image cannot be decoded: {error.defect.reason}, {error.defect.detail}.",
            "It has changed since it was ingested: land it again as a new dataset version.",
        ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _WIDE_MODES:
        high_byte = np.clip(np.asarray(image), 0, 0xFFFF) >> 8
        return Image.fromarray(high_byte.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite(image.convert("RGBA"))
        return opaque.convert("RGB")
    if image.mode in _RGB_MODES:
        return image.convert("RGB")
    raise DefectError("unsupported_image_mode", image.mode)


# Many files


def inspect_many(
    paths: Iterable[str],
    open_image: Callable[[str], bytes],
    *,
    max_pixels: int,
    num_workers: int,
    on_progress: ProgressCallback,
) -> dict[str, ImageInfo | Defect]:
    """Inspect each distinct path once, in parallel; the result is sorted by path.

    Threads, not processes: Pillow decodes without the interpreter lock, `open_image` may hold a client that cannot
    be sent to another process, and on object stores more threads than cores hide the latency.

    Args:
        paths: checked paths (check_image_path); repeats cost nothing.
        open_image: returns the bytes of a path; called from several threads. FileNotFoundError, IsADirectoryError
            and NotADirectoryError become missing_image, a DefectError its own reason; anything else is a fault
            of the machinery and ends the call.
        max_pixels: see inspect_image.
        num_workers: threads.
        on_progress: called with (done, total) after every few images.
    """

    def inspect(some: list[str]) -> list[ImageInfo | Defect]:
        return [_inspect_path(path, open_image, max_pixels) for path in some]

    distinct = sorted(set(paths))
    tasks = [distinct[start : start + _IMAGES_A_TASK] for start in range(0, len(distinct), _IMAGES_A_TASK)]
    infos: dict[str, ImageInfo | Defect] = {}
    with ThreadPoolExecutor(num_workers, thread_name_prefix="inspect") as executor:
        # One image a task costs as much as decoding a thumbnail.
        for task, found in zip(tasks, executor.map(inspect, tasks), strict=True):
            infos.update(zip(task, found, strict=True))
            on_progress(len(infos), len(distinct))
    return infos


def _inspect_path(path: str, open_image: Callable[[str], bytes], max_pixels: int) -> ImageInfo | Defect:
    try:
        return inspect_image(open_image(path), max_pixels=max_pixels)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return Defect("missing_image", path)
    except DefectError as error:
        return error.defect
