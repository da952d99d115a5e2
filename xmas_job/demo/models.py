"""Two tiny LLaVA models, `demo-proxy` and `demo-target`, as ordinary Hugging Face directories that load offline.

Owns their shape, tokenizer, processor and chat template. Refuses to own their pre-training (pretraining) and the
training that the line does afterwards.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from xmas_job.demo.drawing import CANVAS, draw_scene
from xmas_job.demo.pretraining import Losses, Schedule, pretrain
from xmas_job.demo.questions import FAMILIES, arithmetic_questions, general_questions

if TYPE_CHECKING:
    from pathlib import Path

PATCH = 8
NUM_IMAGE_TOKENS = (CANVAS // PATCH) ** 2
PAD, EOS, IMAGE = "<pad>", "</s>", "<image>"

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- set parts = [{'type': 'text', 'text': message['content']}] if message['content'] is string"
    " else message['content'] -%}"
    "{%- set text = parts | selectattr('type', 'equalto', 'text') | map(attribute='text') | join('\\n') -%}"
    "{%- set images = parts | selectattr('type', 'equalto', 'image') | list -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{ 'ASSISTANT:' }}{% generation %}{{ ' ' + text + '</s>' }}{% endgeneration %}"
    "{%- elif message['role'] == 'system' -%}{{ text + '\\n' }}"
    "{%- else -%}{{ 'USER: ' + '<image>\\n' * (images | length) + text + ' ' }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}"
)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Width and depth of one demo model's language model, and how long it is pre-trained."""

    name: str
    width: int
    num_layers: int
    schedule: Schedule


PROXY = ModelShape("demo-proxy", 64, 3, Schedule(num_seeing_steps=350, num_speaking_steps=400))
TARGET = ModelShape("demo-target", 96, 4, Schedule(num_seeing_steps=350, num_speaking_steps=300))


def write_models(directory: Path, *, seed: int = 0, shapes: tuple[ModelShape, ...] = (PROXY, TARGET)) -> list[Path]:
    """Write every model to `directory/<name>`, side by side, each in a process of its own with one thread."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=len(shapes), mp_context=spawn) as processes:
        pending = [processes.submit(write_model, directory / shape.name, shape, seed=seed) for shape in shapes]
        for future in pending:
            future.result()
    return [directory / shape.name for shape in shapes]


def write_model(directory: Path, shape: ModelShape, *, seed: int = 0) -> Losses:
    """Build, pre-train and save one model; the same seed gives the same bytes.

    Sets the number of torch threads of this process to one, which the promise of equal bytes needs.
    """
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    processor = build_processor()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(_config(shape, processor.tokenizer))
        losses = pretrain(model, processor, shape.schedule, seed=seed)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return losses


def build_processor() -> LlavaProcessor:
    """Pictures of any size to 36 image tokens; text by a byte-level BPE, so any UTF-8 text round-trips."""
    side = {"height": CANVAS, "width": CANVAS}
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size=side, crop_size=side),
        tokenizer=build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
    )


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE with the demo's words."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        special_tokens=[PAD, EOS, IMAGE],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_vocabulary_text(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        extra_special_tokens={"image_token": IMAGE},
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )


def _vocabulary_text() -> list[str]:
    """Text that holds every word of the demo, so that nearly each becomes one token."""
    rng = np.random.default_rng(0)
    questions = arithmetic_questions()
    for _ in range(200):
        scene = draw_scene(rng, "pretraining")
        questions += general_questions(scene, rng)
        questions += [family.ask(scene, rng) for family in FAMILIES if family.fits(scene)]
    # A question stands after a line break on a picture's first turn and after a space on the others.
    return [f"USER:{gap}{question.text} ASSISTANT: {question.answer}" for question in questions for gap in " \n"]


def _config(shape: ModelShape, tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    language = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        intermediate_size=2 * shape.width,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        initializer_range=0.1,  # the usual 0.02 is made for widths in the thousands and learns nothing here
        **special,
    )
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=CANVAS,
        patch_size=PATCH,
    )
    return LlavaConfig(
        text_config=language,
        vision_config=vision,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=NUM_IMAGE_TOKENS,
        vision_feature_layer=-1,
        **special,
    )
