from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from tests.tiny_models import build_tokenizer, text_sizes
from tests.training.toy import image_example, load_image, text_example
from xmas_job.errors import BadDataError, UsageError, XmasError
from xmas_job.models.adapter import LVLM
from xmas_job.models.compose import Parts, compose

SIDE = {"height": 32, "width": 32}


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("language")
    tokenizer = build_tokenizer(["<pad>", "</s>"], eos_token="</s>", pad_token="<pad>")
    torch.manual_seed(1)
    LlamaForCausalLM(LlamaConfig(**text_sizes(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(folder)
    CLIPImageProcessorPil(size=SIDE, crop_size=SIDE).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("siglip")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(folder)
    SiglipImageProcessorPil(size=SIDE).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("tower", ["clip", "siglip"])
def test_the_parts_are_in_the_whole_and_it_reads_pictures(language, tower, request, tmp_path):
    folder = request.getfixturevalue(tower)
    result = compose(Parts(str(language), str(folder)), tmp_path / "model")
    assert result["image_tokens"] == 16
    lvlm = LVLM.load(tmp_path / "model")
    whole = dict(lvlm.model.named_parameters())
    for name, weight in LlamaForCausalLM.from_pretrained(language).model.layers.named_parameters():
        assert torch.equal(whole[f"model.language_model.layers.{name}"], weight)
    tower_weights = load_file(folder / "model.safetensors")
    [patches] = [weight for name, weight in tower_weights.items() if name.endswith("patch_embedding.weight")]
    [same] = [weight for name, weight in whole.items() if name.endswith("patch_embedding.weight")]
    assert torch.equal(patches, same)
    encoded = lvlm.encode(image_example("red"), [load_image("red")])
    assert int(encoded.image_token_mask.sum()) == 16
    outputs = lvlm.model(**lvlm.collate([encoded, lvlm.encode(text_example(), [])]).model_inputs)
    assert bool(torch.isfinite(outputs.logits).all())


@pytest.mark.parametrize("tower", ["clip", "siglip"])
@pytest.mark.parametrize("pads", [True, False])
def test_a_wide_picture_is_padded_with_the_mean_colour_only_where_asked(language, tower, pads, request, tmp_path):
    folder = request.getfixturevalue(tower)
    compose(Parts(str(language), str(folder), pads_to_square=pads), tmp_path / "model")
    processor = LVLM.load(tmp_path / "model").processor.image_processor
    wide = Image.new("RGB", (64, 32), "white")  # twice as wide as high: a quarter above and below is filled
    pixels = processor(images=[wide], return_tensors="pt")["pixel_values"][0]
    white = torch.tensor(
        [(1 - mean) / std for mean, std in zip(processor.image_mean, processor.image_std, strict=True)]
    )
    assert pixels.shape == (3, 32, 32)
    assert torch.allclose(pixels[:, 16, 16], white, atol=1e-4)
    expected = torch.zeros(3) if pads else white
    for row in (2, 29):
        assert torch.allclose(pixels[:, row, 16], expected, atol=0.02)  # mean colours are whole numbers of 255


def test_the_conversation_is_vicunas_and_ends_its_answers(language, clip, tmp_path):
    compose(Parts(str(language), str(clip)), tmp_path / "model")
    lvlm = LVLM.load(tmp_path / "model")
    ids = lvlm.encode(text_example(3), []).input_ids
    assert lvlm.processor.tokenizer.decode(ids) == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed,"
        " and polite answers to the user's questions. USER: How many 3? ASSISTANT: one two three</s>"
    )


def test_a_random_projector_follows_the_seed_and_stage_1_weights_are_taken(language, clip, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        compose(Parts(str(language), str(clip)), tmp_path / name, seed=seed)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c
    stage_1 = {
        "model.mm_projector.0.weight": torch.randn(32, 16),
        "model.mm_projector.0.bias": torch.randn(32),
        "model.mm_projector.2.weight": torch.randn(32, 32),
        "model.mm_projector.2.bias": torch.randn(32),
    }
    save_file(stage_1, tmp_path / "projector.safetensors")
    compose(Parts(str(language), str(clip), tmp_path / "projector.safetensors"), tmp_path / "d")
    weights = load_file(tmp_path / "d" / "model.safetensors")
    [second] = [weight for name, weight in weights.items() if name.endswith("projector.linear_2.weight")]
    assert torch.equal(second, stage_1["model.mm_projector.2.weight"])


def test_bad_parts_are_refused_and_leave_nothing(language, clip, tmp_path):
    (tmp_path / "projector.bin").write_bytes(b"a pickle")
    with pytest.raises(UsageError, match="no safetensors file"):
        compose(Parts(str(language), str(clip), tmp_path / "projector.bin"), tmp_path / "model")
    save_file({"linear_1.weight": torch.zeros(3, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(BadDataError, match="not a projector from 16 to 32"):
        compose(Parts(str(language), str(clip), tmp_path / "other.safetensors"), tmp_path / "model")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "other.safetensors").read_bytes()[:-5])
    with pytest.raises(BadDataError, match="cannot be read"):
        compose(Parts(str(language), str(clip), tmp_path / "cut.safetensors"), tmp_path / "model")
    with pytest.raises(UsageError, match="no vision tower"):
        compose(Parts(str(language), str(language)), tmp_path / "model")
    with pytest.raises(UsageError, match="is there already"):
        compose(Parts(str(language), str(clip)), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cut.safetensors",
        "other.safetensors",
        "projector.bin",
    ]


def copy_of(folder: Path, to: Path, *without: str) -> Path:
    shutil.copytree(folder, to)
    for name in without:
        (to / name).unlink()
    return to


def cut(folder: Path) -> Path:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    return folder


def less_one_weight(folder: Path, part_of_name: str) -> Path:
    weights = load_file(folder / "model.safetensors")
    del weights[next(name for name in weights if part_of_name in name)]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_parts_that_are_not_whole_are_refused_by_name(language, clip, tmp_path):
    cut_language, cut_clip = cut(copy_of(language, tmp_path / "l1")), cut(copy_of(clip, tmp_path / "c1"))
    thin_language = less_one_weight(copy_of(language, tmp_path / "l2"), "q_proj")
    thin_clip = less_one_weight(copy_of(clip, tmp_path / "c2"), "q_proj")
    no_tokenizer = copy_of(language, tmp_path / "l3", "tokenizer.json", "tokenizer_config.json")
    no_processor = copy_of(clip, tmp_path / "c3", "preprocessor_config.json")
    other_size = copy_of(clip, tmp_path / "c4")
    CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 40}).save_pretrained(other_size)
    cases: list[tuple[Path, Path, type[XmasError], str]] = [
        (cut_language, clip, BadDataError, r"weights of the language model .*l1 cannot be read.* Fetch it again"),
        (language, cut_clip, BadDataError, r"weights of the vision tower .*c1 cannot be read.* Fetch it again"),
        (thin_language, clip, BadDataError, r"language model .*l2 has no weight .*q_proj"),
        (language, thin_clip, BadDataError, r"vision tower .*c2 has no weight .*q_proj"),
        (no_tokenizer, clip, UsageError, r"l3 is no tokenizer that can be read.* Save tokenizer.json"),
        (language, no_processor, UsageError, r"c3 is no image processor that can be read.* Save preprocessor_config"),
        (
            language,
            other_size,
            UsageError,
            r"pictures of 48 x 40, and the tower takes 32 x 32.* Mend size and crop_size",
        ),
    ]
    for language_model, vision_tower, kind, says in cases:
        with pytest.raises(kind, match=says):
            compose(Parts(str(language_model), str(vision_tower)), tmp_path / "model")
    assert not list(tmp_path.glob("*model*"))
