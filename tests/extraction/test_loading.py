"""Examples loaded by other processes: what arrives, and what does not pile up."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog
from PIL import Image

from tests.tiny_models import tiny_llava
from xmas_job.data.examples import Example, Turn
from xmas_job.errors import BadDataError
from xmas_job.extraction.loading import load_examples

TEXTS = [Example(f"{index:03d}", (Turn("user", "Which?"), Turn("assistant", "red"))) for index in range(70)]
ODD = Example("odd", (Turn("user", "what is <image>?"), Turn("assistant", "red")))
PICTURED = Example("pictured", (Turn("user", "Which?", 1), Turn("assistant", "red")), ("1.png",))


def lost(uri: str) -> Image.Image:
    raise BadDataError(f"{uri} is gone since it was ingested.", "Put it back.")


def num_open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_loaded_examples_hold_no_files_open_and_keep_their_order() -> None:
    """A partition's examples wait in memory together; a file for each tensor would end at the usual limit of 1024."""
    before = num_open_files()
    with structlog.testing.capture_logs() as logged:
        loaded = list(load_examples(tiny_llava().encoder, [*TEXTS, ODD], lost, max_length=60, num_processes=1))
    assert num_open_files() - before < 20
    assert [one.example.uid for one in loaded] == [*(f"{index:03d}" for index in range(70)), "odd"]
    assert [one.encoded is None for one in loaded] == [*[False] * 70, True]
    (event,) = logged
    assert (event["event"], event["uid"]) == ("cannot_encode", "odd")
    assert "holds 1 '<image>' for 0 images" in event["error"]


@pytest.mark.parametrize("num_processes", [0, 1])
def test_a_lost_image_stops_with_its_own_line(num_processes: int) -> None:
    loading = load_examples(tiny_llava().encoder, [PICTURED], lost, max_length=60, num_processes=num_processes)
    with pytest.raises(BadDataError) as caught:
        list(loading)
    assert str(caught.value) == "1.png is gone since it was ingested. Put it back."
