"""Loading, saving and the split of a model into vision, projector and language."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import GemmaConfig, PaliGemmaConfig, PaliGemmaForConditionalGeneration

from tests.tiny_models import LLAVA_TEMPLATE, text_sizes, tiny_llava, tiny_qwen
from xmas_job.data.examples import Example, Turn
from xmas_job.errors import BadDataError, UsageError
from xmas_job.models.adapter import LVLM

FAMILIES = {"llava": tiny_llava, "qwen": tiny_qwen}
EXAMPLE = Example("one", (Turn("user", "Which?", 1), Turn("assistant", "red")), ("a",))
PICTURE = Image.new("RGB", (48, 32), (20, 30, 200))
SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
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


# --- broken folders ------------------------------------------------------------------------------------------------

WEIGHT = "language_model.model.layers.1.self_attn.q_proj.weight"


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def cut_in_half(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


BROKEN: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "weights cut off": (cut_in_half, BadDataError, r"model\.safetensors: .*not fully covered"),
    "a weight less": (
        lambda folder: change_weights(folder, lambda weights: weights.pop(WEIGHT)),
        BadDataError,
        r"m has no weight model\.language_model\.layers\.1\.self_attn\.q_proj\.weight\. Copy the model again",
    ),
    "a smaller weight": (
        lambda folder: change_weights(folder, lambda weights: weights.update({WEIGHT: weights[WEIGHT][:16].clone()})),
        BadDataError,
        r"q_proj\.weight of shape \(16, 32\), where config\.json wants \(32, 32\)",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), UsageError, r"m holds no model .*no file"),
    "no JSON": (
        lambda folder: (folder / "config.json").write_text("{"),
        UsageError,
        "config.json.* is not a valid JSON",
    ),
    "no vision-language model": (
        lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'),
        UsageError,
        "m holds no model that can be read: Unrecognized configuration class",
    ),
    "no chat template": (
        lambda folder: (folder / "chat_template.jinja").unlink(),
        UsageError,
        "processor of .*m has no chat template. Save chat_template.jinja",
    ),
    "no tokenizer": (
        lambda folder: (folder / "tokenizer.json").unlink(),
        UsageError,
        "m has no processor that can be read: .*Save the processor beside the weights: tokenizer.json",
    ),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "m"
    tiny_llava().save(folder)
    return folder


@pytest.mark.parametrize("what", BROKEN)
def test_broken_folder_is_refused_in_one_line(whole: Path, tmp_path: Path, what: str) -> None:
    """A weight that is not there would be random otherwise, and scores with it would look like any others."""
    damage, kind, message = BROKEN[what]
    folder = Path(shutil.copytree(whole, tmp_path / "m"))
    damage(folder)
    with pytest.raises(kind, match=message) as caught:
        LVLM.load(folder)
    assert "\n" not in str(caught.value)


def test_paligemma_is_refused_by_name(tmp_path: Path) -> None:
    """Before anything is trained or extracted, and before its want of a chat template is met."""
    sizes = text_sizes(tiny_llava().processor.tokenizer)
    config = PaliGemmaConfig(vision_config=SIGLIP, text_config=GemmaConfig(**sizes, head_dim=8))
    PaliGemmaForConditionalGeneration(config).save_pretrained(tmp_path / "p")
    with pytest.raises(UsageError, match="p is a PaliGemma: it attends both ways over a prompt that ends"):
        LVLM.load(tmp_path / "p")


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


def test_logits_that_are_scaled_behind_the_head_are_refused() -> None:
    lvlm = tiny_llava()
    forward = lvlm.model.forward

    def scaled(**inputs: torch.Tensor) -> object:
        out = forward(**inputs)
        out.logits = out.logits / 8
        return out

    lvlm.model.forward = scaled
    with pytest.raises(UsageError, match=r"makes 6\.25 of a logit of 50, which is not restated here"):
        _ = lvlm.softcap


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
