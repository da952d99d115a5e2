"""What a model answers to held-out examples.

Owns loading a target (base and un-merged adapter) and greedy generation in batches. Refuses to own judging (metrics).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from PIL.Image import Image
from safetensors import safe_open
from torch import Tensor
from transformers import GenerationConfig

from xmas_job.data.examples import Example
from xmas_job.errors import UsageError
from xmas_job.models.adapter import LVLM, Batch

LoadImage = Callable[[str], Image]
OnProgress = Callable[[int, int], None]  # (examples answered, examples in all)

# Prompts of so many batches are encoded at once and sorted by length; their images are held in memory.
_BATCHES_A_WINDOW = 16


def load_target(
    base_dir: Path, adapter_dir: Path | None, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> LVLM:
    """The base model, carrying the LoRA adapter if one is given.

    The adapter is not merged: merging rounds the sum of both into the base's dtype.

    Raises:
        UsageError: there is no adapter at `adapter_dir`, or it was trained on another model.
    """
    lvlm = LVLM.load(base_dir, device=device, dtype=dtype)
    if adapter_dir is None:
        return lvlm
    if not all((adapter_dir / name).is_file() for name in ("adapter_config.json", "adapter_model.safetensors")):
        raise UsageError(f"No LoRA adapter at {adapter_dir}.", "Give a directory that train_target wrote.")
    if not _carries(lvlm, adapter_dir):
        raise UsageError(f"The adapter at {adapter_dir} does not fit {base_dir}.", "Give the base it was trained on.")
    lvlm.model.eval()
    return lvlm


def _carries(lvlm: LVLM, adapter_dir: Path) -> bool:
    """Put the adapter into `lvlm.model` itself (peft's wrapper is not needed); False where they do not fit."""
    try:
        adapted = PeftModel.from_pretrained(lvlm.model, adapter_dir)
    except (ValueError, RuntimeError):  # no such modules, other shapes
        return False
    with safe_open(adapter_dir / "adapter_model.safetensors", framework="pt") as stored:
        return set(stored.keys()) == set(get_peft_model_state_dict(adapted))  # peft 0.21 only warns of missing weights


def generate_answers(
    lvlm: LVLM,
    examples: Sequence[Example],
    load_image: LoadImage,
    *,
    max_new_tokens: int,
    batch_size: int,
    on_progress: OnProgress,
) -> list[str]:
    """The greedy answer to everything before each example's last assistant turn, outer white space dropped.

    Args:
        lvlm: the model, as from `load_target`.
        examples: in any order; the answers come in the same.
        load_image: the RGB image of a URI.
        max_new_tokens: tokens after which an answer without end is cut.
        batch_size: examples generated together; in float32 it does not change an answer, up to ties in the logits.
        on_progress: called after every batch.

    Raises:
        BadDataError: an example has no assistant turn.
    """
    stop_token_ids = _stop_token_ids(lvlm)
    configuration = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,  # some models bring their own; greedy means greedy
        use_cache=True,
        eos_token_id=stop_token_ids,
        pad_token_id=stop_token_ids[0],
    )
    answers = [""] * len(examples)
    num_answered = 0
    for positions, batch in _batches(lvlm, examples, load_image, batch_size):
        inputs = batch.to(lvlm.model.device).model_inputs
        with torch.inference_mode():
            generated = lvlm.model.generate(**inputs, generation_config=configuration)
        for position, tokens in zip(positions, generated[:, inputs["input_ids"].shape[1] :], strict=True):
            answers[position] = lvlm.decode(_until_stop(tokens, stop_token_ids)).strip()
        num_answered += len(positions)
        on_progress(num_answered, len(examples))
    return answers


def _batches(
    lvlm: LVLM, examples: Sequence[Example], load_image: LoadImage, batch_size: int
) -> Iterator[tuple[list[int], Batch]]:
    """Positions in `examples` and their left-padded prompts, prompts of like length together."""
    window = _BATCHES_A_WINDOW * batch_size
    for begin in range(0, len(examples), window):
        encoded = {
            position: lvlm.encode_prompt(example, [load_image(uri) for uri in example.image_uris])
            for position, example in enumerate(examples[begin : begin + window], start=begin)
        }
        by_length = sorted(encoded, key=lambda position: len(encoded[position].input_ids))
        for first in range(0, len(by_length), batch_size):
            positions = by_length[first : first + batch_size]
            yield positions, lvlm.collate([encoded[position] for position in positions], padding_side="left")


def _until_stop(tokens: Tensor, stop_token_ids: list[int]) -> list[int]:
    """Tokens before the first stop token; what follows it is padding."""
    ids = tokens.tolist()
    return ids[: next((index for index, token in enumerate(ids) if token in stop_token_ids), len(ids))]


def _stop_token_ids(lvlm: LVLM) -> list[int]:
    """Ids that end an answer: those of the generation configuration, and the tokenizer's end token."""
    configured = lvlm.model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return [token for token in dict.fromkeys([*listed, lvlm.processor.tokenizer.eos_token_id]) if token is not None]
