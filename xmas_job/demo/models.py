"""Two tiny LLaVA models, `demo-proxy` and `demo-target`, as ordinary Hugging Face directories that load offline.

Owns their shape, their tokenizer and their brief pre-training on a procedural stream that shares no scene with the
pool or the held-out set. Refuses to own the training that the line does afterwards.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from xmas_job.demo.drawing import CANVAS, draw_scene, render
from xmas_job.demo.questions import FAMILIES, arithmetic_questions, general_questions

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from xmas_job.demo.questions import Question

PATCH = 8
NUM_IMAGE_TOKENS = (CANVAS // PATCH) ** 2
IGNORED = -100
QUESTIONS_PER_PICTURE = 4
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
    """Widths and depths of one demo model, and how long it is pre-trained."""

    name: str
    width: int
    num_layers: int
    vision_width: int
    num_vision_layers: int
    num_steps: int
    batch_size: int = 48
    learning_rate: float = 2e-3


PROXY = ModelShape("demo-proxy", width=64, num_layers=3, vision_width=64, num_vision_layers=2, num_steps=600)
TARGET = ModelShape("demo-target", width=96, num_layers=4, vision_width=64, num_vision_layers=2, num_steps=600)


def write_models(directory: Path, *, seed: int = 0, shapes: tuple[ModelShape, ...] = (PROXY, TARGET)) -> dict[str, Path]:
    """Write every model to `directory/<name>`, each pre-trained in a process of its own with one thread."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=len(shapes), mp_context=spawn) as processes:
        futures = {shape.name: processes.submit(write_model, directory / shape.name, shape, seed) for shape in shapes}
        for future in futures.values():
            future.result()
    return {name: directory / name for name in futures}


def write_model(directory: Path, shape: ModelShape, seed: int) -> list[float]:
    """Build, pre-train and save one model; gives the loss of every step. The same seed gives the same bytes.

    The number of torch threads of the calling process is set to one, which the promise of equal bytes needs.
    """
    torch.set_num_threads(1)
    processor = build_processor()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(_config(shape, processor.tokenizer))
    losses = _pretrain(model, processor, shape, seed)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return losses


def build_processor() -> LlavaProcessor:
    """Pictures of any size to 36 image tokens; text by a byte-level BPE, so any UTF-8 text round-trips."""
    side = {"height": CANVAS, "width": CANVAS}
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size=side, crop_size=side),
        tokenizer=_build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
    )


def _build_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=4096,
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
        padding_side="right",
        model_max_length=1024,
    )


def _vocabulary_text() -> list[str]:
    """Text that holds every word of the demo many times, so that each becomes one token."""
    rng = np.random.default_rng(0)
    questions = arithmetic_questions()
    for _ in range(400):
        scene = draw_scene(rng, "pretraining")
        questions += general_questions(scene, rng, QUESTIONS_PER_PICTURE)
        questions += [question for family in FAMILIES if (question := family.ask(scene, rng))]
    return [_prompt_text(question) + _answer_text(question) for question in questions]


def _prompt_text(question: Question) -> str:
    return f"USER: {question.text} ASSISTANT:"


def _answer_text(question: Question) -> str:
    return f" {question.answer}{EOS}"


def _config(shape: ModelShape, tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        intermediate_size=2 * shape.width,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        **special,
    )
    vision = CLIPVisionConfig(
        hidden_size=shape.vision_width,
        intermediate_size=2 * shape.vision_width,
        num_hidden_layers=shape.num_vision_layers,
        num_attention_heads=4,
        image_size=CANVAS,
        patch_size=PATCH,
    )
    return LlavaConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=NUM_IMAGE_TOKENS,
        vision_feature_layer=-1,
        **special,
    )


def _pretrain(model: Any, processor: LlavaProcessor, shape: ModelShape, seed: int) -> list[float]:
    """Next-token loss on the answers, AdamW, one cosine cycle; gives the loss of every step."""
    stream = _Stream(processor, np.random.default_rng(seed))
    optimizer = torch.optim.AdamW(model.parameters(), lr=shape.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=shape.learning_rate, total_steps=shape.num_steps, pct_start=0.1, cycle_momentum=False
    )
    model.train()
    losses = []
    for _ in range(shape.num_steps):
        # No attention mask: padding stands on the right, and a causal model never looks there.
        loss = model(**stream.next_batch(shape.batch_size)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    model.eval()
    return losses


class _Stream:
    """Endless batches of pictures with several questions each, tokenized piece by piece (a few hundred pieces)."""

    def __init__(self, processor: LlavaProcessor, rng: np.random.Generator) -> None:
        self._processor = processor
        self._rng = rng
        self._encode = lru_cache(maxsize=100_000)(lambda text: processor.tokenizer.encode(text))

    def next_batch(self, batch_size: int) -> dict[str, Tensor]:
        """Arguments of the model's forward: input_ids and labels (B, S), pixel_values (B, 3, 48, 48)."""
        scenes = [draw_scene(self._rng, "pretraining") for _ in range(batch_size)]
        pictures = [render(scene, self._rng) for scene in scenes]
        rows = [self._tokenize(general_questions(scene, self._rng, QUESTIONS_PER_PICTURE)) for scene in scenes]
        input_ids, labels = zip(*rows, strict=True)
        return {
            "input_ids": pad_sequence(input_ids, batch_first=True, padding_value=self._processor.tokenizer.pad_token_id),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
            "pixel_values": self._processor.image_processor(pictures, return_tensors="pt")["pixel_values"],
        }

    def _tokenize(self, questions: list[Question]) -> tuple[Tensor, Tensor]:
        input_ids: list[int] = []
        labels: list[int] = []
        for index, question in enumerate(questions):
            prompt_text = _prompt_text(question)
            if index == 0:
                prompt_text = prompt_text.replace("USER: ", "USER: " + IMAGE * NUM_IMAGE_TOKENS + "\n")
            prompt, answer = self._encode(prompt_text), self._encode(_answer_text(question))
            input_ids += prompt + answer
            labels += [IGNORED] * len(prompt) + answer
        return torch.tensor(input_ids), torch.tensor(labels)
