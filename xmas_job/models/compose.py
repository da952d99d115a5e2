"""A LLaVA from its parts: language model, vision tower and a projector between them, as one transformers folder.

Owns how the parts are joined. Refuses to own training, and to unpickle: weights are safetensors.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL.Image import new as new_image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaImageProcessorPil,
    LlavaProcessor,
)
from transformers.utils import logging as transformers_logging

from xmas_job.errors import BadDataError, UsageError
from xmas_job.fingerprint import Json
from xmas_job.models.adapter import LVLM

IMAGE_TOKEN = "<image>"  # noqa: S105 (no password)
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)
# Vicuna v1, which LLaVA-1.5 and TinyLLaVA share; the token that ends an answer is the tokenizer's own.
_TEMPLATE = (
    "{{{{ '{system}' }}}}"
    "{{%- for message in messages -%}}"
    "{{%- if message['role'] == 'assistant' -%}}{{{{ 'ASSISTANT:' }}}}"
    "{{%- else -%}}{{{{ message['role'] | upper + ': ' }}}}{{%- endif -%}}"
    "{{%- for part in message['content'] if part['type'] == 'image' -%}}{{{{ '<image>\n' }}}}{{%- endfor -%}}"
    "{{%- for part in message['content'] if part['type'] == 'text' -%}}"
    "{{{{ (' ' if message['role'] == 'assistant' else '') + part['text'] }}}}{{%- endfor -%}}"
    "{{{{ '{end}' if message['role'] == 'assistant' else ' ' }}}}"
    "{{%- endfor -%}}"
    "{{%- if add_generation_prompt -%}}{{{{ 'ASSISTANT:' }}}}{{%- endif -%}}"
)
_FIRST, _SECOND = ("linear_1", "0"), ("linear_2", "2")
"""A projector's layers as transformers names them, and as LLaVA's and TinyLLaVA's nn.Sequential does."""


_CLASS_TOKENS = ("class_embedding", "cls_token")
_IMAGE_SETTINGS = (
    *("do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor"),
    *("do_normalize", "image_mean", "image_std", "do_convert_rgb"),
)


@dataclass(frozen=True, slots=True)
class Parts:
    """What is joined: local folders or hub ids, and the projector's weights."""

    language_model: str
    vision_tower: str
    projector: Path | None = None
    """Safetensors of stage 1; None draws them anew, as the XMAS release starts."""
    feature_layer: int = -2
    """Whose output the projector reads; LLaVA and TinyLLaVA take the last but one."""
    pads_to_square: bool = False
    """Whether a picture is padded with its mean colour, as by LLaVA-1.5 (image_aspect_ratio pad), or goes through the
    tower's own processor, which may cut its ends off, as by TinyLLaVA (square)."""


def compose(parts: Parts, directory: Path, *, seed: int = 0) -> dict[str, Json]:
    """Write the LVLM to `directory`, which must not be there; it is loaded once to see that its template can be masked.

    The projector is two linear layers with GELU between, as LLaVA-1.5's (mlp2x_gelu).

    Returns:
        image tokens of a picture and parameters of each part.

    Raises:
        UsageError: `directory` is there, or a part is not what it should be.
        BadDataError: the projector's file is damaged or has other shapes.
    """
    if directory.exists():
        raise UsageError(f"{directory} is there already.", "Give a folder that is not, or remove it.")
    transformers_logging.disable_progress_bar()
    tokenizer = _tokenizer(parts.language_model)
    language: Any = _loaded("language model", AutoModelForCausalLM, parts.language_model)
    vision = _vision_tower(parts.vision_tower)
    if len(tokenizer) > language.get_input_embeddings().num_embeddings:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # the new rows are drawn around the mean of the others
            language.resize_token_embeddings(len(tokenizer))
    has_class_token = any(name.rpartition(".")[2] in _CLASS_TOKENS for name, _ in vision.named_parameters())
    config = _config(parts, tokenizer, language, vision, has_class_token=has_class_token)
    model = _joined(config, language, vision, _projector(config, parts.projector, seed))
    processor = LlavaProcessor(
        image_processor=_image_processor(parts, vision),
        tokenizer=tokenizer,
        patch_size=vision.config.patch_size,
        num_additional_image_tokens=int(has_class_token),
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        chat_template=_TEMPLATE.format(system=SYSTEM.replace("'", "\\'"), end=tokenizer.eos_token),
        image_token=IMAGE_TOKEN,
    )
    _write(LVLM(model.eval(), processor), directory)
    return {
        "model": str(directory),
        "image_tokens": config.image_seq_length,
        "language_parameters": _num_parameters(model.model.language_model),
        "vision_parameters": _num_parameters(vision),
        "projector_parameters": _num_parameters(model.model.multi_modal_projector),
        "projector": "random" if parts.projector is None else str(parts.projector),
    }


def _write(lvlm: LVLM, directory: Path) -> None:
    """Under another name first: a folder that is there is whole, and its template can be masked."""
    unfinished = directory.with_name(f".{directory.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        lvlm.save(unfinished)
        LVLM.load(unfinished)
        unfinished.rename(directory)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _loaded(what: str, kind: Any, name: str) -> Any:
    with _readable(what, name, "Give a transformers folder or a hub id whose weights are safetensors."):
        part, report = kind.from_pretrained(
            name, use_safetensors=True, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
    # transformers draws such weights at random and warns.
    odd = [*sorted(report["missing_keys"]), *sorted(key for key, *_ in report["mismatched_keys"])]
    if odd:
        raise BadDataError(
            f"The {what} {name} has no weight {odd[0]} of the shape that its config.json wants.",
            "Fetch it again, or give one whose weights and configuration belong together.",
        )
    return part


@contextmanager
def _readable(what: str, name: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:
        raise BadDataError(f"The weights of the {what} {name} cannot be read: {error}.", "Fetch it again.") from error
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(f"{name} is no {what} that can be read: {reason}", remedy) from error


def _tokenizer(name: str) -> Any:
    with _readable("tokenizer", name, "Save tokenizer.json and tokenizer_config.json beside the weights."):
        tokenizer = AutoTokenizer.from_pretrained(name)
    if tokenizer.eos_token is None:
        raise UsageError(f"The tokenizer of {name} has no token that ends a text.", "Take another language model.")
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def _vision_tower(name: str) -> Any:
    """The tower alone, of a tower or of a dual encoder."""
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UsageError(f"{name} is no vision tower that can be read.", "Give a folder or a hub id.") from error
    config = getattr(config, "vision_config", config)
    kind = AutoModel._model_mapping.get(type(config), None)  # noqa: SLF001 (the class of a part has no public way)
    if kind is None or not hasattr(config, "patch_size"):
        raise UsageError(f"{name} is no vision tower.", "Take CLIP, SigLIP, or another tower of patches.")
    return _loaded("vision tower", kind, name)


def _image_processor(parts: Parts, vision: Any) -> Any:
    with _readable("image processor", parts.vision_tower, "Save preprocessor_config.json beside the tower's weights."):
        processor = AutoImageProcessor.from_pretrained(parts.vision_tower, backend="pil")
    if parts.pads_to_square:
        own = {name: getattr(processor, name, None) for name in _IMAGE_SETTINGS}
        own = {"do_center_crop": False, **{name: value for name, value in own.items() if value is not None}}
        processor = LlavaImageProcessorPil(**own, do_pad=True)
    wanted = vision.config.image_size
    *_, height, width = processor(new_image("RGB", (wanted, 2 * wanted)), return_tensors="pt")["pixel_values"].shape
    if (height, width) != (wanted, wanted):
        raise UsageError(
            f"The image processor of {parts.vision_tower} makes pictures of {height} x {width}, and the tower takes "
            f"{wanted} x {wanted}.",
            "Mend size and crop_size in its preprocessor_config.json.",
        )
    return processor


def _config(parts: Parts, tokenizer: Any, language: Any, vision: Any, *, has_class_token: bool) -> LlavaConfig:
    side = vision.config.image_size // vision.config.patch_size
    return LlavaConfig(
        vision_config=vision.config,
        text_config=language.config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        projector_hidden_act="gelu",
        vision_feature_layer=parts.feature_layer,
        # "default" leaves the class token out; a tower without one gives all it has.
        vision_feature_select_strategy="default" if has_class_token else "full",
        image_seq_length=side * side,
        tie_word_embeddings=bool(language.config.tie_word_embeddings),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )


def _projector(config: LlavaConfig, file: Path | None, seed: int) -> dict[str, Tensor]:
    """Weights by name. Random ones are those of torch's nn.Linear, as in LLaVA and TinyLLaVA."""
    vision_width, width = config.vision_config.hidden_size, config.text_config.hidden_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first, second = nn.Linear(vision_width, width), nn.Linear(width, width)
    drawn = {
        f"{name}.{key}": value
        for name, layer in (("linear_1", first), ("linear_2", second))
        for key, value in layer.state_dict().items()
    }
    if file is None:
        return drawn
    found = _projector_file(file)
    odd = [name for name, weight in drawn.items() if found.get(name, torch.empty(0)).shape != weight.shape]
    if odd or found.keys() != drawn.keys():
        shapes = {name: tuple(weight.shape) for name, weight in found.items()}
        raise BadDataError(
            f"{file} holds {shapes}, not a projector from {vision_width} to {width}.",
            "Give the projector of this language model and this tower.",
        )
    return {name: weight.float() for name, weight in found.items()}


def _projector_file(file: Path) -> dict[str, Tensor]:
    if file.suffix != ".safetensors":
        raise UsageError(
            f"{file} is no safetensors file.", "Convert it where you trust it: a pickle may run any code when it loads."
        )
    try:
        raw = load_file(file)
    except (SafetensorError, OSError) as error:
        raise BadDataError(f"{file} cannot be read: {error}.", "Fetch it again.") from error
    renamed = {}
    for name, weight in raw.items():
        layer, _, key = name.rpartition(".")
        leaf = layer.rpartition(".")[2]
        renamed[f"{'linear_1' if leaf in _FIRST else 'linear_2' if leaf in _SECOND else layer}.{key}"] = weight
    return renamed


def _joined(config: LlavaConfig, language: Any, vision: Any, projector: dict[str, Tensor]) -> Any:
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    model.model.language_model = language.base_model
    model.model.vision_tower = vision
    model.model.multi_modal_projector.to_empty(device="cpu").load_state_dict(projector)
    model.lm_head = language.get_output_embeddings()
    model.generation_config.eos_token_id = config.eos_token_id
    model.generation_config.pad_token_id = config.pad_token_id
    return model


def _num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
