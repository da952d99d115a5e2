"""A loaded vision-language model with its processor: what training, extraction and evaluation need of it.

Owns loading, saving, which parameters are vision, projector and language. Refuses to own loops, devices' choice and
image files. Generic first: any transformers model with `image_token_id` and a decoder of separate linear layers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from PIL.Image import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging as transformers_logging

from xmas_job.data.examples import Example
from xmas_job.errors import BadDataError, UsageError
from xmas_job.models.encoding import IGNORED_LABEL, Batch, ConversationEncoder, Encoded, last_answer_index
from xmas_job.models.saving import os_errors

__all__ = ["IGNORED_LABEL", "LVLM", "Batch", "Encoded"]

# Last parts of module names in transformers' families. A projector may live inside the tower's module (Qwen's merger).
_VISION_NAMES = ("vision_tower", "visual", "vision_model", "vision_encoder")
_PROJECTOR_NAMES = ("multi_modal_projector", "merger", "connector", "aligner")


class LVLM:
    """A vision-language model and its processor.

    Attributes:
        model: the transformers model, in evaluation mode after `load`.
        processor: its processor (tokenizer, image processor, chat template).
        image_token_id: the id of an expanded image placeholder.
        encoder: encodes conversations for it; can be sent to another process, which the model should not be.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model
        self.processor = processor
        self.image_token_id = _image_token_id(model)
        self.encoder = ConversationEncoder(processor, self.image_token_id, _stop_token_ids(model, processor))

    @classmethod
    def load(cls, directory: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> LVLM:
        """Load a local Hugging Face directory; nothing is downloaded.

        Raises:
            UsageError: there is no model at `directory`, or it has no image token, no chat template or no fast
                tokenizer, or is a PaliGemma.
            BadDataError: its weights are cut off or not those of its configuration, or its chat template cannot be
                masked.
        """
        if not (directory / "config.json").is_file():
            raise UsageError(
                f"No model at {directory}: config.json is missing.", "Give a Hugging Face model directory."
            )
        transformers_logging.disable_progress_bar()  # a bar a file drowns our own progress
        model = _load_model(directory, dtype)
        if model.config.model_type == "paligemma":
            raise UsageError(
                f"{directory} is a PaliGemma: it attends both ways over a prompt that ends at its one answer.",
                "Take a model whose text is causal; a conversation has no such place.",
            )
        processor = _load_processor(directory)
        if not processor.chat_template:
            raise UsageError(
                f"The processor of {directory} has no chat template.",
                "Save chat_template.jinja beside it; a base model has none: take the one tuned on instructions.",
            )
        if not processor.tokenizer.is_fast:
            raise UsageError(f"The tokenizer of {directory} has no offsets.", "Save it with tokenizer.json beside it.")
        lvlm = cls(model.to(device).eval(), processor)
        lvlm.encoder.check_template()
        return lvlm

    def save(self, directory: Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write weights as safetensors, and the processor, so that `load` reads the directory. Raises OSError.

        `weights`: all of them, where the model itself holds only a part.
        """
        transformers_logging.disable_progress_bar()
        with os_errors():
            self.model.save_pretrained(directory, state_dict=weights)
            self.processor.save_pretrained(directory)

    def encode(self, example: Example, images: Sequence[Image], *, max_length: int | None = None) -> Encoded:
        """The whole conversation with answer labels; see `ConversationEncoder.encode`."""
        return self.encoder.encode(example, images, max_length=max_length)

    def encode_prompt(self, example: Example, images: Sequence[Image]) -> Encoded:
        """Everything before the last answer, and the generation prompt; see `ConversationEncoder.encode_prompt`."""
        return self.encoder.encode_prompt(example, images)

    def collate(self, encoded: Sequence[Encoded], *, padding_side: Literal["right", "left"] = "right") -> Batch:
        """Pad and concatenate; see `ConversationEncoder.collate`."""
        return self.encoder.collate(encoded, padding_side=padding_side)

    def answer_text(self, example: Example) -> str:
        """The text of the last assistant turn."""
        return example.turns[last_answer_index(example)].text

    def decode(self, ids: Tensor | Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        return str(self.processor.tokenizer.decode(ids, skip_special_tokens=True))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device  # type: ignore[no-any-return]

    def language_model(self) -> nn.Module:
        """The decoder without its head: what holds the attention layers."""
        decoder = self.model.get_decoder()
        assert isinstance(decoder, nn.Module)
        return decoder

    @cached_property
    def softcap(self) -> float | None:
        """The cap c, if the model makes c·tanh(x/c) of its head's logits x: of one decoder PaliGemma does, Llava not.

        Found by asking the model what it makes of a logit of 50, because configurations do not tell.

        Raises:
            UsageError: it makes something else of it.
        """
        probe = 50.0
        token = torch.tensor([[int(self.image_token_id == 0)]], device=self.device)
        head = self.model.get_output_embeddings()
        hook = head.register_forward_hook(lambda _module, _inputs, output: torch.full_like(output, probe))
        try:
            with torch.no_grad():
                made = float(self.model(input_ids=token, attention_mask=torch.ones_like(token)).logits[0, -1, 0])
        finally:
            hook.remove()
        cap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        if math.isclose(made, probe, rel_tol=1e-2):
            return None
        if cap is not None and math.isclose(made, math.tanh(probe / cap) * cap, rel_tol=1e-2):
            return float(cap)
        raise UsageError(
            f"{type(self.model).__name__} makes {made:g} of a logit of {probe:g}, which is not restated here.",
            "Take another proxy for loss, perplexity, el2n and aum; alignment needs no logits.",
        )

    def vision_parameters(self) -> list[nn.Parameter]:
        """Parameters of the vision tower, the projector's left out."""
        projectors = self.projector_modules()
        return [
            parameter
            for tower in self._topmost(_VISION_NAMES)
            for name, parameter in self.model.get_submodule(tower).named_parameters(prefix=tower)
            if not any(name.startswith(f"{projector}.") for projector in projectors)
        ]

    def freeze_vision(self) -> None:
        """Stop the vision tower from training."""
        for parameter in self.vision_parameters():
            parameter.requires_grad = False

    def projector_modules(self) -> list[str]:
        """Names of the modules between tower and language model, as peft's `modules_to_save` takes them.

        Raises:
            UsageError: the family has none under a known name.
        """
        return self._topmost(_PROJECTOR_NAMES)

    def lora_targets(self) -> str:
        """Regular expression (full match) on the names of the language model's linear layers."""
        language_model = self.language_model()
        prefix = next(name for name, module in self.model.named_modules() if module is language_model)
        leaves = {
            name.rpartition(".")[2] for name, module in language_model.named_modules() if isinstance(module, nn.Linear)
        }
        return rf"{re.escape(prefix)}\..*\.({'|'.join(sorted(leaves))})"

    def _topmost(self, names: tuple[str, ...]) -> list[str]:
        """Full names of modules whose last part is one of `names`, none inside another of them."""
        found: list[str] = []
        for name, _ in self.model.named_modules():
            inside_found = any(name.startswith(f"{outer}.") for outer in found)
            if name.rpartition(".")[2] in names and not inside_found:
                found.append(name)
        if not found:
            raise UsageError(
                f"{type(self.model).__name__} has no module named {' or '.join(names)}.",
                "Add its name to xmas_job/models/adapter.py.",
            )
        return found


def _load_model(directory: Path, dtype: torch.dtype) -> Any:
    try:
        # dtype at load, not model.to(dtype): rotary frequencies stay in float32.
        model, report = AutoModelForImageTextToText.from_pretrained(
            directory, dtype=dtype, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except SafetensorError as error:
        raise BadDataError(
            f"{_broken_file(directory)}: {error}.", "Copy the model again, or train it again if this is its only copy."
        ) from error
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UsageError(
            f"{directory} holds no model that can be read: {_first_line(error)}",
            "Give the folder of a vision-language model that the installed transformers knows.",
        ) from error
    # transformers gives such weights random values and warns.
    odd = [f"has no weight {name}" for name in sorted(report["missing_keys"])] + [
        f"has weight {name} of shape {tuple(stored)}, where config.json wants {tuple(wanted)}"
        for name, stored, wanted in sorted(report["mismatched_keys"])
    ]
    if odd:
        raise BadDataError(f"{directory} {odd[0]}.", "Copy the model again: its weights and its config.json differ.")
    return model


def _broken_file(directory: Path) -> Path:
    for file in sorted(directory.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError:
            return file
    return directory


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _load_processor(directory: Path) -> Any:
    try:
        return AutoProcessor.from_pretrained(directory, local_files_only=True, backend="pil")
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UsageError(
            f"{directory} has no processor that can be read: {_first_line(error)}",
            "Save the processor beside the weights: tokenizer.json, processor_config.json, chat_template.jinja.",
        ) from error
    except ImportError as error:
        raise UsageError(
            f"The processor of {directory} needs a package that is not there: {str(error).strip()}",
            "Install it (a processor with a video part needs torchvision).",
        ) from error


def _image_token_id(model: Any) -> int:
    token_id = getattr(model.config, "image_token_id", None)
    if token_id is None:
        raise UsageError(
            f"{type(model).__name__} has no image_token_id in its configuration.", "Take a vision-language model."
        )
    return int(token_id)


def _stop_token_ids(model: Any, processor: Any) -> frozenset[int]:
    configured = model.generation_config.eos_token_id
    configured = [] if configured is None else [configured] if isinstance(configured, int) else configured
    return frozenset({*configured, processor.tokenizer.eos_token_id} - {None})
