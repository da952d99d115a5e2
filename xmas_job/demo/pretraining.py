"""Brief pre-training of a demo model on a procedural stream that shares no scene with the pool or the held-out set.

Owns its two steps: the tower learns to see (patches name their quarter of the picture through a probe that is thrown
away), then, the tower frozen, the rest learns to speak. Refuses to own the models' shape and the line's training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from xmas_job.demo.drawing import CANVAS, COLOURS, KINDS, PATTERNS, PLACES, RADII, draw_scene, render
from xmas_job.demo.questions import general_questions

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from transformers import LlavaProcessor

    from xmas_job.demo.drawing import Scene
    from xmas_job.demo.questions import Question

IGNORED = -100
# What a patch says of its quarter of the picture; an empty quarter has no kind, colour, size and pattern.
NOTHING = "nothing"
NAMES = (
    (*KINDS, NOTHING),
    (*COLOURS, NOTHING),
    (*RADII, NOTHING),
    (*PATTERNS, NOTHING),
    tuple(COLOURS),  # of the frame
    tuple(PLACES),
)


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast a model learns to see and then to speak."""

    num_seeing_steps: int
    num_speaking_steps: int
    seeing_batch: int = 32
    speaking_batch: int = 8  # many small steps learn to look things up sooner than few large ones
    seeing_rate: float = 4e-3
    speaking_rate: float = 2e-3


class Losses(NamedTuple):
    """The loss of every step."""

    seeing: list[float]
    speaking: list[float]


def pretrain(model: Any, processor: LlavaProcessor, schedule: Schedule, *, seed: int) -> Losses:
    """Train a LlavaForConditionalGeneration in place on one thread's worth of random scenes; leaves it in eval mode."""
    rng = np.random.default_rng([seed, 2])
    model.train()
    losses = Losses(_learn_to_see(model, processor, schedule, rng), _learn_to_speak(model, processor, schedule, rng))
    model.eval()
    return losses


def _learn_to_see(model: Any, processor: LlavaProcessor, schedule: Schedule, rng: np.random.Generator) -> list[float]:
    sizes = [len(names) for names in NAMES]
    probe = nn.Linear(model.config.text_config.hidden_size, sum(sizes))
    seeing = nn.ModuleList([model.model.vision_tower, model.model.multi_modal_projector, probe])

    def next_loss() -> Tensor:
        scenes = [draw_scene(rng, "pretraining") for _ in range(schedule.seeing_batch)]
        features = torch.stack(model.get_image_features(_pixels(scenes, processor, rng)).pooler_output)
        named = name_patches(scenes, features.shape[1])
        guesses = probe(features).split(sizes, dim=-1)
        losses = [cross_entropy(guess.flatten(0, 1), named[..., i].flatten()) for i, guess in enumerate(guesses)]
        return torch.stack(losses).sum()

    return _descend(list(seeing.parameters()), next_loss, schedule.num_seeing_steps, schedule.seeing_rate)


def _learn_to_speak(model: Any, processor: LlavaProcessor, schedule: Schedule, rng: np.random.Generator) -> list[float]:
    model.model.vision_tower.requires_grad_(requires_grad=False)
    speaking = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def next_loss() -> Tensor:
        scenes = [draw_scene(rng, "pretraining") for _ in range(schedule.speaking_batch)]
        rows = [tokenize(general_questions(scene, rng), processor) for scene in scenes]
        # No attention mask: padding stands on the right, where a causal model never looks.
        output = model(
            input_ids=_pad([ids for ids, _ in rows], processor.tokenizer.pad_token_id),
            labels=_pad([labels for _, labels in rows], IGNORED),
            pixel_values=_pixels(scenes, processor, rng),
        )
        loss: Tensor = output.loss
        return loss

    losses = _descend(speaking, next_loss, schedule.num_speaking_steps, schedule.speaking_rate)
    model.model.vision_tower.requires_grad_(requires_grad=True)
    return losses


def _descend(
    parameters: list[nn.Parameter], next_loss: Callable[[], Tensor], num_steps: int, rate: float
) -> list[float]:
    """AdamW over one cycle: a tenth of warm-up, then cosine to zero; gives the loss of every step."""
    optimizer = torch.optim.AdamW(parameters, lr=rate)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=rate, total_steps=num_steps, pct_start=0.1, cycle_momentum=False
    )
    losses = []
    for _ in range(num_steps):
        loss = next_loss()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        cycle.step()
        losses.append(float(loss.detach()))
    return losses


def _pixels(scenes: list[Scene], processor: LlavaProcessor, rng: np.random.Generator) -> Tensor:
    """Shape (B, 3, 48, 48)."""
    pictures = [render(scene, rng) for scene in scenes]
    pixels: Tensor = processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
    return pixels


def name_patches(scenes: list[Scene], num_patches: int) -> Tensor:
    """Indices into NAMES of what every patch should say; shape (B, num_patches, len(NAMES))."""
    side = round(num_patches**0.5)
    quarters = [row // (side // 2) * 2 + column // (side // 2) for row in range(side) for column in range(side)]
    return torch.tensor([_name_quarters(scene) for scene in scenes])[:, quarters]


def _name_quarters(scene: Scene) -> list[list[int]]:
    named = []
    for place in PLACES:
        shown = (scene.kind, scene.colour, scene.size, scene.pattern) if place in scene.places else (NOTHING,) * 4
        named.append([names.index(name) for names, name in zip(NAMES, (*shown, scene.frame, place), strict=True)])
    return named


def tokenize(questions: list[Question], processor: LlavaProcessor) -> tuple[Tensor, Tensor]:
    """Token ids and labels of one picture's questions, as the chat template renders them; both of shape (S,)."""
    input_ids: list[int] = []
    labels: list[int] = []
    picture = processor.image_token * (CANVAS // processor.patch_size) ** 2 + "\n"
    for index, question in enumerate(questions):
        start = picture if index == 0 else ""
        prompt = processor.tokenizer.encode(f"USER: {start}{question.text} ASSISTANT:")
        answer = processor.tokenizer.encode(f" {question.answer}{processor.tokenizer.eos_token}")
        input_ids += prompt + answer
        labels += [IGNORED] * len(prompt) + answer
    return torch.tensor(input_ids), torch.tensor(labels)


def _pad(rows: list[Tensor], value: int) -> Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=value)
