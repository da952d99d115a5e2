"""JSON lines to tables: the reader, every check and the table, against a bare loop that checks nothing."""

from __future__ import annotations

import gc
import hashlib
import io
import json
import random
import time
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from xmas_job.data.defects import Defect
from xmas_job.data.images import ImageInfo
from xmas_job.data.readers import llava
from xmas_job.stages.ingest import ROWS_AT_ONCE, build_tables, next_rows
from xmas_job.storage.schemas import EXAMPLES

NUM_TURNS = 6
WORDS_A_TURN = 20
SOURCE_URI, IMAGE_ROOT = "landing/d/v1/data.jsonl", "landing/d/v1"
SPEAKERS = {"human": "user", "gpt": "assistant"}


def make_lines(num_rows: int) -> tuple[bytes, dict[str, ImageInfo | Defect]]:
    """LLaVA rows of about 950 bytes as JSON lines, a tenth with a letter outside ASCII, and their images."""
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 8))) for _ in range(3000)]
    lines, images = [], {}
    for row in range(num_rows):
        path = f"coco/train2017/{row:012d}.jpg"
        images[path] = ImageInfo(hashlib.sha256(path.encode()).hexdigest(), 640, 480, "RGB", "JPEG", 1)
        texts = [" ".join(rng.choices(words, k=WORDS_A_TURN)) for _ in range(NUM_TURNS)]
        texts[0] = "<image>\n" + texts[0]
        if row % 10 == 0:
            texts[1] += " café"
        turns = [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(texts)]
        record = {"id": f"{row:012d}", "image": path, "conversations": turns}
        lines.append(json.dumps(record, ensure_ascii=False).encode())
    return b"\n".join(lines) + b"\n", dict(images)


def read_ours(data: bytes, images: Mapping[str, ImageInfo | Defect]) -> pa.Table:
    """As ingest does it, images already inspected."""
    rows = llava.read(io.BytesIO(data), name="d")
    tables = []
    while chunk := next_rows(rows):
        tables.append(build_tables(chunk, images, source_uri=SOURCE_URI, image_root=IMAGE_ROOT)[0])
    return pa.concat_tables(tables)


def read_bare(data: bytes, images: Mapping[str, ImageInfo | Defect]) -> pa.Table:
    """json.loads, sha256 of the canonical content, and an Arrow table with the same columns; no check at all."""
    tables = []
    columns: dict[str, list[Any]] = {name: [] for name in EXAMPLES.names}
    for number, line in enumerate(io.BytesIO(data)):
        record = json.loads(line)
        info: Any = images[record["image"]]
        turns = [
            (SPEAKERS[turn["from"]], turn["value"].replace("<image>", "").strip(), int(place == 0))
            for place, turn in enumerate(record["conversations"])
        ]
        identity = {"images": [info.sha256], "turns": turns}
        content = json.dumps(identity, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
        columns["uid"].append(hashlib.sha256(content).hexdigest()[:32])
        columns["source"].append("coco")
        columns["orig_id"].append(record["id"])
        columns["source_uri"].append(SOURCE_URI)
        columns["source_row"].append(number)
        columns["image_uris"].append([f"{IMAGE_ROOT}/{record['image']}"])
        columns["image_sha256"].append([info.sha256])
        columns["image_modes"].append([info.mode])
        columns["image_formats"].append([info.format])
        columns["width"].append(info.width)
        columns["height"].append(info.height)
        columns["num_turns"].append(len(turns))
        columns["conversation"].append(turns)
        columns["text_sha256"].append("")
        columns["num_words"].append(0)
        columns["modality"].append("image")
        if number % ROWS_AT_ONCE == ROWS_AT_ONCE - 1:
            tables.append(_table(columns))
            columns = {name: [] for name in EXAMPLES.names}
    return pa.concat_tables([*tables, _table(columns)])


def _table(columns: Mapping[str, list[Any]]) -> pa.Table:
    return pa.table([pa.array(columns[field.name], field.type) for field in EXAMPLES], schema=EXAMPLES)


def measure(num_rows: int, num_rounds: int) -> dict[str, float]:
    """Rows a CPU second of both sides and their ratio; sides take turns, the best round of each counts."""
    data, images = make_lines(num_rows)
    ours, bare = read_ours(data, images), read_bare(data, images)
    assert ours["uid"].equals(bare["uid"]), "the bare loop does other work"
    assert ours["conversation"].equals(bare["conversation"])
    seconds = {read_ours: float("inf"), read_bare: float("inf")}
    for _ in range(num_rounds):
        for side, best in seconds.items():
            gc.unfreeze()  # what one side sets aside must not help the other
            gc.collect()
            started = time.process_time()
            side(data, images)
            seconds[side] = min(best, time.process_time() - started)
    return {
        "bytes_a_row": len(data) / num_rows,
        "rows_a_second": num_rows / seconds[read_ours],
        "bare_rows_a_second": num_rows / seconds[read_bare],
        "ratio": seconds[read_bare] / seconds[read_ours],
    }
