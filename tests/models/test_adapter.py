"""Loading, saving and the split of a model into vision, projector and language."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image

from tests.tiny_models import LLAVA_TEMPLATE, tiny_llava, tiny_qwen
from xmas_job.data.examples import Example, Turn
from xmas_job.errors import BadDataError, UsageError
from xmas_job.models.adapter import LVLM

FAMILIES = {"llava": tiny_llava, "qwen": tiny_qwen}
EXAMPLE = Example("one", (Turn("user", "Which?", 1), Turn("assistant", "red")), ("a",))
PICTURE = Image.new("RGB", (48, 32), (20, 30, 200))
LINEAR_LAYERS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.fixture(params=FAMILIES)
def lvlm(request: pytest.FixtureRequest) -> LVLM:
    return FAMILIES[request.param]()


def test_saved_model_loads_and_computes_the_same(lvlm: LVLM, tmp_path: Path) -> None:
    lvlm.save(tmp_path)
    loaded = LVLM.load(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    assert loaded.image_token_id == lvlm.image_token_id
    assert not loaded.model.training
    batch = lvlm.collate([lvlm.encode(EXAMPLE, [PICTURE])])
    again = loaded.collate([loaded.encode(EXAMPLE, [PICTURE])])
    assert torch.equal(loaded.model(**again.model_inputs).logits, lvlm.model(**batch.model_inputs).logits)


def test_rotary_frequencies_stay_float32_in_bfloat16(lvlm: LVLM, tmp_path: Path) -> None:
    lvlm.save(tmp_path)
    loaded = LVLM.load(tmp_path, dtype=torch.bfloat16)
    assert loaded.model.dtype == torch.bfloat16
    frequencies = loaded.language_model().rotary_emb.inv_freq
    assert torch.equal(frequencies, lvlm.language_model().rotary_emb.inv_freq)
    assert frequencies.dtype == torch.float32


def test_directory_without_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"No model at .*config\.json is missing"):
        LVLM.load(tmp_path / "nowhere")


def test_load_refuses_a_template_that_cannot_be_masked(tmp_path: Path) -> None:
    tiny_llava(chat_template=LLAVA_TEMPLATE.replace("'ASSISTANT:'", "'ANSWER:'")).save(tmp_path)
    with pytest.raises(BadDataError, match="template probe: the chat template cannot be masked"):
        LVLM.load(tmp_path)


def test_load_says_what_a_processor_with_a_video_part_needs(tmp_path: Path) -> None:
    tiny_qwen().save(tmp_path)
    changes = {
        "processor_class": "Qwen2_5_VLProcessor",
        "video_processor": {"video_processor_type": "Qwen2VLVideoProcessor"},
    }
    config = json.loads((tmp_path / "processor_config.json").read_text())
    (tmp_path / "processor_config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UsageError, match="needs torchvision"):
        LVLM.load(tmp_path)


def test_frozen_vision_leaves_projector_and_language_trainable(lvlm: LVLM) -> None:
    lvlm.freeze_vision()
    frozen = {name for name, parameter in lvlm.model.named_parameters() if not parameter.requires_grad}
    (projector,) = lvlm.projector_modules()
    is_vision = {
        name
        for name, _ in lvlm.model.named_parameters()
        if name.startswith(("model.vision_tower.", "model.visual.")) and not name.startswith(f"{projector}.")
    }
    assert frozen == is_vision
    assert len(lvlm.vision_parameters()) == len(is_vision) > 10
    assert any(name.startswith(f"{projector}.") for name, _ in lvlm.model.named_parameters())


def test_projector_is_named_as_in_the_model() -> None:
    assert tiny_llava().projector_modules() == ["model.multi_modal_projector"]
    assert tiny_qwen().projector_modules() == ["model.visual.merger"]


def test_lora_wraps_the_language_models_linear_layers_only(lvlm: LVLM) -> None:
    config = LoraConfig(r=2, target_modules=lvlm.lora_targets(), modules_to_save=lvlm.projector_modules())
    adapted = get_peft_model(lvlm.model, config)
    wrapped = {
        name.removesuffix(".lora_A.default") for name, _ in adapted.named_modules() if name.endswith("lora_A.default")
    }
    prefix = "base_model.model.model.language_model.layers"
    assert {name.rpartition(".")[2] for name in wrapped} == LINEAR_LAYERS
    assert all(name.startswith(prefix) for name in wrapped)
    assert len(wrapped) == 3 * len(LINEAR_LAYERS)


def test_answer_text_is_the_last_assistant_turn(lvlm: LVLM) -> None:
    turns = (*EXAMPLE.turns, Turn("user", "Sure?"), Turn("assistant", "yes"), Turn("user", "Bye"))
    assert lvlm.answer_text(Example("a", turns, ("a",))) == "yes"
