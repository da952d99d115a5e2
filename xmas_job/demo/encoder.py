"""A tiny CLIP, `demo-clip`, as an ordinary Hugging Face directory that loads offline: for methods without a proxy.

Owns its shape, processor and brief contrastive training on scenes that neither pool nor held-out set show.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from tokenizers import processors
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor
from transformers.utils import logging as transformers_logging

from xmas_job.demo.drawing import CANVAS, draw_scene, render
from xmas_job.demo.models import EOS, PATCH, build_tokenizer
from xmas_job.demo.questions import general_questions

if TYPE_CHECKING:
    from pathlib import Path

    from xmas_job.demo.drawing import Scene

NUM_STEPS = 60
BATCH = 32
RATE = 2e-3
DIMENSION = 32
MAX_LENGTH = 64  # tokens
TOWER = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


def write_encoder(directory: Path, *, seed: int = 0, num_steps: int = NUM_STEPS) -> list[float]:
    """Build, train and save it; the same seed gives the same bytes. Returns the loss of every step.

    Sets the number of torch threads of this process to one, which the promise of equal bytes needs.
    """
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    processor = _build_processor()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPModel(_config(processor))
        losses = _train(model, processor, np.random.default_rng([seed, 3]), num_steps)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return losses


def _build_processor() -> CLIPProcessor:
    side = {"height": CANVAS, "width": CANVAS}
    tokenizer = build_tokenizer()
    # CLIP reads its text vector at the end-of-text token.
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", special_tokens=[(EOS, tokenizer.eos_token_id)]
    )
    return CLIPProcessor(image_processor=CLIPImageProcessorPil(size=side, crop_size=side), tokenizer=tokenizer)


def _config(processor: CLIPProcessor) -> CLIPConfig:
    tokenizer = processor.tokenizer
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None, "pad_token_id": tokenizer.pad_token_id}
    text = {**TOWER, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": MAX_LENGTH}
    vision = {**TOWER, "image_size": CANVAS, "patch_size": PATCH}
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=DIMENSION)


def _train(model: CLIPModel, processor: CLIPProcessor, rng: np.random.Generator, num_steps: int) -> list[float]:
    """CLIP's own loss: of a batch's pictures and texts, find the pairs."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    losses = []
    model.train()
    for _ in range(num_steps):
        scenes = [draw_scene(rng, "pretraining") for _ in range(BATCH)]
        loss: Tensor = model(**_inputs(scenes, processor, rng), return_loss=True).loss
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    model.eval()
    return losses


def _inputs(scenes: list[Scene], processor: CLIPProcessor, rng: np.random.Generator) -> dict[str, Tensor]:
    pictures = [render(scene, rng) for scene in scenes]
    texts = [" ".join(f"USER: {one.text} ASSISTANT: {one.answer}" for one in general_questions(s, rng)) for s in scenes]
    inputs = processor.tokenizer(
        texts, padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
    )
    pixels = processor.image_processor(images=pictures, return_tensors="pt")["pixel_values"]
    return {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "pixel_values": pixels}
