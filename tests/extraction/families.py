"""Tiny models of every family that extraction is for, built from configurations, with inputs that its shapes allow.

The inputs are written by hand, not by a processor: what is shown is that blocks are found and computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from torch import Tensor

from tests.tiny_models import text_sizes, tiny_llava
from xmas_job.models.adapter import LVLM, Encoded

IMAGE = 2  # the id of "<image>" in tiny_llava's tokenizer
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


@dataclass(frozen=True)
class Picture:
    """One image as its model takes it: tensors, and how many tokens it becomes."""

    inputs: dict[str, Tensor]
    num_tokens: int


@dataclass(frozen=True)
class Family:
    """A model, a small and a large picture for it, and whether it lets prefixes be shared."""

    lvlm: LVLM
    pictures: tuple[Picture, Picture]
    shares: bool

    def encode(self, uid: str, *parts: int | Picture, answer: int = 3) -> Encoded:
        """Numbers are texts of so many random tokens; the last `answer` tokens are labelled."""
        generator = torch.Generator().manual_seed(sum(uid.encode()))
        ids: list[Tensor] = []
        inputs: dict[str, list[Tensor]] = {}
        for part in parts:
            if isinstance(part, Picture):
                ids.append(torch.full((part.num_tokens,), IMAGE))
                for name, tensor in part.inputs.items():
                    inputs.setdefault(name, []).append(tensor)
            else:
                ids.append(torch.randint(8, 300, (part,), generator=generator))
        row = torch.cat(ids)
        labels = torch.full_like(row, -100)
        labels[-answer:] = row[-answer:]
        joined = {name: self._joined(tensors) for name, tensors in inputs.items()}
        return Encoded(uid, row, labels, row == IMAGE, joined)

    def _joined(self, tensors: list[Tensor]) -> Tensor:
        """Several images of one example, as the family's processor puts them together."""
        if self.lvlm.model.config.model_type in {"idefics3", "smolvlm"}:  # all tiles in a row
            return torch.cat(tensors, dim=1)
        if tensors[0].ndim == 5:  # an image a row, fewer tiles padded
            most = max(tensor.shape[1] for tensor in tensors)
            tensors = [_padded(tensor, most) for tensor in tensors]
        return torch.cat(tensors)


def _padded(tensor: Tensor, num_tiles: int) -> Tensor:
    return torch.cat([tensor, tensor.new_zeros(1, num_tiles - tensor.shape[1], *tensor.shape[2:])], dim=1)


class _Processor:
    """What collate and the vocabulary check need of a processor."""

    def __init__(self, *, token_types: bool = False, extra: Sequence[str] = ()) -> None:
        real = tiny_llava().processor
        self.tokenizer, self.image_token = real.tokenizer, real.image_token
        self.return_mm_token_type_ids = token_types
        self.model_input_names = ["input_ids", "attention_mask", *extra]


def _text(**changes: Any) -> dict[str, Any]:
    return {**text_sizes(_Processor().tokenizer), **changes}


def _pixels(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _lvlm(model_type: Any, config: Any, **processor: Any) -> LVLM:
    torch.manual_seed(0)
    return LVLM(model_type(config).eval(), _Processor(**processor))


def _tower(**changes: Any) -> dict[str, Any]:
    return {"model_type": "siglip_vision_model", **VISION, "image_size": 32, "patch_size": 8, **changes}


def llava_next() -> Family:
    config = hf.LlavaNextConfig(
        vision_config={**_tower(model_type="clip_vision_model"), "projection_dim": 32},
        text_config=hf.LlamaConfig(**_text()),
        image_grid_pinpoints=[[32, 64], [64, 32]],
        image_token_index=IMAGE,
    )
    lvlm = _lvlm(hf.LlavaNextForConditionalGeneration, config)
    small = {"pixel_values": _pixels(1, 1, 3, 3, 32, 32), "image_sizes": torch.tensor([[32, 64]])}
    large = {"pixel_values": _pixels(2, 1, 3, 3, 32, 32), "image_sizes": torch.tensor([[60, 32]])}
    return Family(lvlm, (_counted(lvlm, small), _counted(lvlm, large)), shares=True)


def llava_onevision() -> Family:
    config = hf.LlavaOnevisionConfig(
        vision_config=_tower(vision_use_head=False),
        text_config=hf.Qwen2Config(**_text()),
        image_grid_pinpoints=[[32, 32], [64, 64]],
        image_token_index=IMAGE,
    )
    lvlm = _lvlm(hf.LlavaOnevisionForConditionalGeneration, config)
    small = {"pixel_values": _pixels(1, 1, 2, 3, 32, 32), "image_sizes": torch.tensor([[32, 32]])}
    large = {"pixel_values": _pixels(2, 1, 5, 3, 32, 32), "image_sizes": torch.tensor([[64, 64]])}
    return Family(lvlm, (_counted(lvlm, small), _counted(lvlm, large)), shares=True)


def qwen2_vl() -> Family:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    config = hf.Qwen2VLConfig(
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "patch_size": 8},
        text_config=_text(rope_parameters=rope),
        image_token_id=IMAGE,
        video_token_id=3,
        vision_start_token_id=4,
        vision_end_token_id=5,
    )
    lvlm = _lvlm(hf.Qwen2VLForConditionalGeneration, config, token_types=True)

    def picture(seed: int, height: int, width: int) -> Picture:
        pixels = _pixels(seed, height * width, 3 * 2 * 8 * 8)
        grid = torch.tensor([[1, height, width]])
        return Picture({"pixel_values": pixels, "image_grid_thw": grid}, height * width // 4)

    return Family(lvlm, (picture(1, 4, 4), picture(2, 4, 8)), shares=False)


def _tiled(config_type: Any, model_type: Any) -> Family:
    config = config_type(
        vision_config={**VISION, "image_size": 32, "patch_size": 8},
        text_config=hf.LlamaConfig(**_text()),
        scale_factor=2,
        image_token_id=IMAGE,
    )
    pictures = tuple(
        Picture(
            {
                "pixel_values": _pixels(tiles, 1, tiles, 3, 32, 32),
                "pixel_attention_mask": torch.ones(1, tiles, 32, 32, dtype=torch.int64),
            },
            4 * tiles,
        )
        for tiles in (1, 3)
    )
    return Family(_lvlm(model_type, config), (pictures[0], pictures[1]), shares=True)


def idefics3() -> Family:
    return _tiled(hf.Idefics3Config, hf.Idefics3ForConditionalGeneration)


def smolvlm() -> Family:
    return _tiled(hf.SmolVLMConfig, hf.SmolVLMForConditionalGeneration)


def internvl() -> Family:
    config = hf.InternVLConfig(
        vision_config={**VISION, "image_size": [32, 32], "patch_size": [8, 8], "model_type": "internvl_vision"},
        text_config=hf.Qwen3Config(**_text(head_dim=16)),  # norms queries and keys, heads wider than width / heads
        image_token_id=IMAGE,
        downsample_ratio=0.5,
    )
    pictures = tuple(Picture({"pixel_values": _pixels(n, n, 3, 32, 32)}, 4 * n) for n in (1, 3))
    lvlm = _lvlm(hf.InternVLForConditionalGeneration, config)
    return Family(lvlm, (pictures[0], pictures[1]), shares=True)


def gemma3(**text: Any) -> Family:
    config = hf.Gemma3Config(
        vision_config=_tower(vision_use_head=False),
        text_config=hf.Gemma3TextConfig(**_text(head_dim=8, sliding_window=8, num_hidden_layers=3, **text)),
        mm_tokens_per_image=4,
        image_token_index=IMAGE,
    )
    pictures = tuple(Picture({"pixel_values": _pixels(seed, 1, 3, 32, 32)}, 4) for seed in (1, 2))
    lvlm = _lvlm(hf.Gemma3ForConditionalGeneration, config, token_types=True, extra=["token_type_ids"])
    return Family(lvlm, (pictures[0], pictures[1]), shares=False)


def _counted(lvlm: LVLM, inputs: dict[str, Tensor]) -> Picture:
    """A picture of as many tokens as the model makes of it."""
    with torch.no_grad():
        features = lvlm.model.model.get_image_features(**inputs, return_dict=True).pooler_output
    return Picture(inputs, sum(len(one) for one in features))


FAMILIES: dict[str, Callable[[], Family]] = {
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "qwen2_vl": qwen2_vl,
    "idefics3": idefics3,
    "smolvlm": smolvlm,
    "internvl": internvl,
    "gemma3": gemma3,
}
