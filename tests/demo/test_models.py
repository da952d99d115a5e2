from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaProcessor

from xmas_job.data.examples import Example, Turn
from xmas_job.demo import pretraining
from xmas_job.demo.drawing import Scene, draw_scene, render
from xmas_job.demo.models import IMAGE, NUM_IMAGE_TOKENS, ModelShape, build_processor, write_model, write_models
from xmas_job.demo.pretraining import IGNORED, NAMES, Losses, Schedule, name_patches, tokenize
from xmas_job.demo.questions import Question
from xmas_job.models.adapter import LVLM

BRIEF = ModelShape("brief", width=32, num_layers=2, schedule=Schedule(num_seeing_steps=8, num_speaking_steps=8))
QUESTIONS = [Question("What hue?", "red"), Question("Describe the picture.", "1 small red solid star , top left")]


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Losses]:
    directory = tmp_path_factory.mktemp("models") / BRIEF.name
    return directory, write_model(directory, BRIEF, seed=3)


@pytest.fixture(scope="session")
def processor() -> LlavaProcessor:
    return build_processor()


def test_directory_loads_offline_by_the_auto_classes_and_answers(written: tuple[Path, Losses]) -> None:
    directory, _ = written
    processor = AutoProcessor.from_pretrained(directory, local_files_only=True)
    model = AutoModelForImageTextToText.from_pretrained(directory, local_files_only=True)
    picture = render(draw_scene(np.random.default_rng(0), "pool"), np.random.default_rng(0)).resize((70, 61))
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What colour is it?"}]}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(images=[picture], text=prompt, return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 48, 48)
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == NUM_IMAGE_TOKENS == 36
    answer = model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert answer.shape[1] > inputs["input_ids"].shape[1]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_few_steps_lower_the_losses(written: tuple[Path, Losses]) -> None:
    _, losses = written
    for steps in losses:
        assert len(steps) == 8
        assert sum(steps[-3:]) < 0.97 * sum(steps[:3])


def test_same_seed_writes_the_same_bytes_in_any_process(written: tuple[Path, Losses], tmp_path: Path) -> None:
    directory, _ = written
    (again,) = write_models(tmp_path, seed=3, shapes=(BRIEF,))
    names = sorted(path.name for path in directory.iterdir())
    assert "model.safetensors" in names
    assert sorted(path.name for path in again.iterdir()) == names
    for name in names:
        assert (again / name).read_bytes() == (directory / name).read_bytes(), name


def test_another_seed_writes_other_weights(written: tuple[Path, Losses], tmp_path: Path) -> None:
    write_model(tmp_path / "other", BRIEF, seed=4)
    assert (tmp_path / "other/model.safetensors").read_bytes() != (written[0] / "model.safetensors").read_bytes()


def test_the_tower_learns_while_seeing_and_is_trainable_again_afterwards(
    written: tuple[Path, Losses], tmp_path: Path
) -> None:
    unseeing = ModelShape("unseeing", width=32, num_layers=2, schedule=Schedule(1, 8))
    seeing = AutoModelForImageTextToText.from_pretrained(written[0])
    write_model(tmp_path / "unseeing", unseeing, seed=3)
    blind = AutoModelForImageTextToText.from_pretrained(tmp_path / "unseeing")
    name = "model.vision_tower.encoder.layers.0.mlp.fc1.weight"
    moved = dict(seeing.named_parameters())[name] - dict(blind.named_parameters())[name]
    assert float(moved.detach().abs().max()) > 1e-3
    assert all(parameter.requires_grad for parameter in seeing.parameters())


def test_pretraining_sees_no_scene_of_pool_or_heldout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Scene] = []
    monkeypatch.setattr(pretraining, "render", lambda scene, rng: seen.append(scene) or render(scene, rng))
    write_model(tmp_path, ModelShape("glimpse", width=32, num_layers=2, schedule=Schedule(1, 1)))
    assert len(seen) == 32 + 8
    assert {scene.split for scene in seen} == {"pretraining"}


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_tokenizer_gives_back_any_text(processor: LlavaProcessor, text: str) -> None:
    assert processor.tokenizer.decode(processor.tokenizer.encode(text)) == text


def test_words_of_the_demo_are_single_tokens(processor: LlavaProcessor) -> None:
    for word in (" red", " colour", " triangle", " top", " hue", " yes", " 17", "What", "\n"):
        assert len(processor.tokenizer.encode(word)) == 1, word
    assert processor.tokenizer.convert_tokens_to_ids(IMAGE) == processor.image_token_id


def test_pretraining_tokens_are_those_of_the_line(written: tuple[Path, Losses]) -> None:
    lvlm = LVLM.load(written[0])
    turns = [Turn("user", QUESTIONS[0].text, 1), Turn("assistant", QUESTIONS[0].answer)]
    turns += [Turn("user", QUESTIONS[1].text), Turn("assistant", QUESTIONS[1].answer)]
    picture = render(draw_scene(np.random.default_rng(0), "pool"), np.random.default_rng(0))
    encoded = lvlm.encode(Example("one", tuple(turns), ("a",)), [picture])
    input_ids, labels = tokenize(QUESTIONS, lvlm.processor)
    assert torch.equal(input_ids, encoded.input_ids)
    assert torch.equal(labels, encoded.labels)
    answers = lvlm.processor.tokenizer.decode(labels[labels != IGNORED])
    assert answers == " red</s> 1 small red solid star , top left</s>"


def test_patches_name_what_stands_in_their_quarter() -> None:
    scene = Scene("star", "red", "large", "dotted", ("bottom left",), "blue")
    named = name_patches([scene], 36)[0].reshape(6, 6, len(NAMES))
    read = [[names[index] for names, index in zip(NAMES, patch, strict=True)] for patch in (named[5, 0], named[0, 5])]
    assert read[0] == ["star", "red", "large", "dotted", "blue", "bottom left"]
    assert read[1] == ["nothing", "nothing", "nothing", "nothing", "blue", "top right"]
    assert (named[:3, :3] == named[0, 0]).all()
    assert (named[2, 2] != named[3, 3]).any()
