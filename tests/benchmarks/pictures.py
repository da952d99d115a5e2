"""Images looked into by ingest, against decoding the same bytes in as many threads and doing nothing else."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from xmas_job.data.images import inspect_many, resolve_inside

SIZES = ((336, 336), (640, 480), (640, 427), (500, 375))
PNG_EVERY = 10
MAX_PIXELS = 89_000_000


def write_pictures(folder: Path, num_images: int) -> list[str]:
    """Images of the sizes that instruction data has: mostly JPEG photographs, one PNG in ten; their paths."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(num_images):
        width, height = SIZES[number % len(SIZES)]
        coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        picture = picture.filter(ImageFilter.EDGE_ENHANCE)
        path = f"{number:06d}" + (".png" if number % PNG_EVERY == 0 else ".jpg")
        picture.save(folder / path, quality=90)
        paths.append(path)
    return paths


def inspect(folder: Path, paths: list[str], num_threads: int) -> int:
    """As ingest does it: path resolved, file read, sha256, every check, decoded."""
    found = inspect_many(
        paths,
        lambda path: resolve_inside(folder, path).read_bytes(),
        max_pixels=MAX_PIXELS,
        num_workers=num_threads,
        on_progress=lambda _done, _total: None,
    )
    return len(found)


def decode(folder: Path, paths: list[str], num_threads: int) -> int:
    """Read and decode, nothing else."""

    def load(path: str) -> None:
        Image.open(io.BytesIO((folder / path).read_bytes())).load()

    with ThreadPoolExecutor(num_threads) as executor:
        return len(list(executor.map(load, paths)))


def measure(folder: Path, num_images: int, num_rounds: int, num_threads: int) -> dict[str, float]:
    """Images a second of both sides and how many times as long ours takes; sides take turns, the best round counts."""
    paths = write_pictures(folder, num_images)
    sides: dict[str, Callable[[Path, list[str], int], int]] = {"ours": inspect, "bare": decode}
    wall, cpu = dict.fromkeys(sides, float("inf")), dict.fromkeys(sides, float("inf"))
    for _ in range(num_rounds):
        for name, side in sides.items():
            started, cpu_started = time.perf_counter(), time.process_time()
            assert side(folder, paths, num_threads) == num_images
            wall[name] = min(wall[name], time.perf_counter() - started)
            cpu[name] = min(cpu[name], time.process_time() - cpu_started)
    return {
        "images_a_second": num_images / wall["ours"],
        "bare_images_a_second": num_images / wall["bare"],
        "times_as_long": wall["ours"] / wall["bare"],
        "times_as_much_cpu": cpu["ours"] / cpu["bare"],
    }
