"""Dual-encoder features on a real, tiny CLIP, against its own forward pass one text and one image at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.tiny_clip import DIMENSION, MAX_LENGTH, tiny_clip
from tests.tiny_models import tiny_llava
from xmas_job.data.examples import Example, Turn
from xmas_job.errors import BadDataError, UsageError
from xmas_job.extraction.clip import DualEncoder, encode_examples

COLOURS = {"red": (220, 20, 20), "blue": (20, 20, 220), "green": (20, 200, 20)}


def load_image(uri: str) -> Image.Image:
    return Image.new("RGB", (32, 32), COLOURS[uri])


def example(uid: str, *texts: str, images: tuple[str, ...] = ("red",)) -> Example:
    """User and assistant by turns."""
    turns = tuple(
        Turn("assistant" if place % 2 else "user", text, len(images) if place == 0 else 0)
        for place, text in enumerate(texts)
    )
    return Example(uid, turns, images)


EXAMPLES = [
    example("a", "Which colour is the circle?", "red"),
    example("b", "How many?", "two", "Is the square above?", "no", images=("blue",)),
    example("c", "What is below? " * 30, "green", images=("green", "red")),
    example("d", "How many squares?", "one", images=()),
    example("e", "", "A red circle."),
]


@pytest.fixture(scope="module")
def encoder() -> DualEncoder:
    return DualEncoder(*tiny_clip())


def unit(vector: torch.Tensor) -> NDArray[np.float64]:
    values = vector.detach().double().numpy().ravel()
    return np.asarray(values / np.linalg.norm(values))


def by_hand(one: Example) -> tuple[NDArray[np.float64], float]:
    """Joint vector and agreement from single, unpadded forward passes."""
    model, processor = tiny_clip()
    model.eval()

    def of_text(text: str) -> NDArray[np.float64]:
        ids = processor.tokenizer(text, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        return unit(model.text_projection(model.text_model(**ids).pooler_output))

    def of_image(uri: str) -> NDArray[np.float64]:
        pixels = processor.image_processor(images=load_image(uri), return_tensors="pt")
        return unit(model.visual_projection(model.vision_model(**pixels).pooler_output))

    def mean(vectors: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        average = np.mean(vectors, axis=0)
        return np.asarray(average / np.linalg.norm(average))

    image = mean([of_image(uri) for uri in one.image_uris])
    text = mean([of_text(turn.text) for turn in one.turns if turn.role == "user"])
    whole = of_text(" ".join(f"{turn.role.upper()}: {turn.text}" for turn in one.turns))
    return np.concatenate([image, text]) / 2**0.5, float(image @ whole)


@pytest.mark.parametrize("batch_size", [1, 2, 9])
def test_features_against_single_passes(encoder: DualEncoder, batch_size: int) -> None:
    found = encode_examples(encoder, EXAMPLES, load_image, batch_size=batch_size)
    assert found.uids == ("a", "b", "c")
    assert found.joint.shape == (3, 2 * DIMENSION)
    for place, one in enumerate(EXAMPLES[:3]):
        joint, agreement = by_hand(one)
        assert found.joint[place] == pytest.approx(joint, abs=2e-6)
        assert found.agreement[place] == pytest.approx(agreement, abs=2e-6)


def test_examples_without_features_are_absent_with_a_reason(encoder: DualEncoder) -> None:
    found = encode_examples(encoder, EXAMPLES, load_image, batch_size=4)
    assert found.absent == (("d", "text_only"), ("e", "no_human_text"))
    nothing = encode_examples(encoder, EXAMPLES[3:], load_image, batch_size=4)
    assert (nothing.uids, nothing.agreement.size) == ((), 0)


def test_answers_do_not_enter_the_joint_vector_but_the_agreement(encoder: DualEncoder) -> None:
    pair = [example("a", "How many?", "two"), example("b", "How many?", "five green squares")]
    found = encode_examples(encoder, pair, load_image, batch_size=2)
    assert found.joint[0] == pytest.approx(found.joint[1], abs=1e-6)
    assert abs(found.agreement[0] - found.agreement[1]) > 1e-3


def test_encoder_is_read_from_a_folder(tmp_path: Path, encoder: DualEncoder) -> None:
    model, processor = tiny_clip()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = DualEncoder.load(tmp_path, device="cpu", dtype=torch.float32)
    pair = [encode_examples(one, EXAMPLES, load_image, batch_size=4).joint for one in (encoder, loaded)]
    assert np.array_equal(*pair)


def test_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no dual encoder"):
        DualEncoder.load(tmp_path, device="cpu", dtype=torch.float32)
    lvlm = tiny_llava()
    lvlm.model.save_pretrained(tmp_path)
    lvlm.processor.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="encodes no images and texts"):
        DualEncoder.load(tmp_path, device="cpu", dtype=torch.float32)


def test_broken_weights_are_refused_with_the_example() -> None:
    model, processor = tiny_clip()
    torch.nn.init.constant_(model.visual_projection.weight, float("nan"))
    with pytest.raises(BadDataError, match="features of a are not finite"):
        encode_examples(DualEncoder(model, processor), EXAMPLES, load_image, batch_size=4)
