from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tiny_models import sharpen, tiny_llava, tiny_qwen
from tests.training.toy import (
    COLOURS,
    ignore_checkpoint,
    ignore_progress,
    image_example,
    load_image,
    mixed_pool,
    settings,
    text_example,
    train_toy_target,
)
from xmas_job.data.examples import Example, Turn
from xmas_job.errors import BadDataError, UsageError
from xmas_job.evaluation.generate import generate_answers, load_target
from xmas_job.evaluation.metrics import exact_match
from xmas_job.models.adapter import LVLM
from xmas_job.training.sft import train_full


def _answers(lvlm: LVLM, examples: list[Example], batch_size: int = 4, max_new_tokens: int = 12) -> list[str]:
    return generate_answers(
        lvlm,
        examples,
        load_image,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        on_progress=ignore_progress,
    )


def _straight_line_answer(lvlm: LVLM, example: Example, max_new_tokens: int) -> str:
    """Greedy decoding written down: one example, no cache, no padding, the whole sequence anew for every token."""
    images = [load_image(uri) for uri in example.image_uris]
    inputs = lvlm.collate([lvlm.encode_prompt(example, images)]).model_inputs
    tokens: list[int] = []
    with torch.inference_mode():
        for _ in range(max_new_tokens):
            token = int(lvlm.model(**inputs).logits[0, -1].argmax())
            if token == lvlm.processor.tokenizer.eos_token_id:
                break
            tokens.append(token)
            inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([[token]])], dim=1)
            for name, value in {"attention_mask": 1, "mm_token_type_ids": 0}.items():
                if name in inputs:
                    inputs[name] = torch.cat([inputs[name], torch.tensor([[value]])], dim=1)
    return lvlm.decode(tokens).strip()


def _long_and_short() -> list[Example]:
    questions = ["Which?", "Which colour is the circle left of the square?", "How many squares are there?"]
    conversations = [
        (Turn("user", "Is it red?", 1), Turn("assistant", "no"), Turn("user", questions[1]), Turn("assistant", "x")),
        *((Turn("user", question, 1), Turn("assistant", "x")) for question in questions),
        *((Turn("user", question), Turn("assistant", "x")) for question in questions),
    ]
    return [
        Example(f"{index:032x}", turns, ("green",) if turns[0].num_images else ())
        for index, turns in enumerate(conversations)
    ]


@pytest.fixture(scope="module")
def talkative() -> LVLM:
    """Untrained with sharp attention and large token embeddings: long answers that depend on the prompt."""
    lvlm = tiny_llava(seed=3)
    sharpen(lvlm.model)
    for parameter in lvlm.model.get_decoder().parameters():
        parameter.data.mul_(1.5)
    return lvlm


def test_answers_equal_straight_line_greedy_decoding(talkative):
    examples = _long_and_short()
    answers = _answers(talkative, examples)
    assert answers == [_straight_line_answer(talkative, example, 12) for example in examples]
    assert len(set(answers)) >= 5  # the model does tell the prompts apart


def test_answers_do_not_depend_on_the_batch_or_the_order(talkative):
    examples = _long_and_short()
    alone = _answers(talkative, examples, batch_size=1)
    assert _answers(talkative, examples, batch_size=3) == alone
    assert _answers(talkative, examples[::-1], batch_size=7) == alone[::-1]


def test_answers_keep_their_order_over_many_windows(talkative):
    examples = _long_and_short() * 6  # 42 examples: three windows at a batch size of 1
    assert _answers(talkative, examples, batch_size=1, max_new_tokens=2) == (
        _answers(talkative, examples[:7], max_new_tokens=2) * 6
    )


def test_a_model_with_rotary_sections_answers_as_straight_line_decoding():
    lvlm, examples = tiny_qwen(seed=1), _long_and_short()
    sharpen(lvlm.model)
    expected = [_straight_line_answer(lvlm, example, 6) for example in examples]
    assert _answers(lvlm, examples, max_new_tokens=6) == expected


def test_sampling_and_penalties_of_the_model_are_overruled(talkative):
    examples = _long_and_short()
    expected = _answers(talkative, examples)
    own = talkative.model.generation_config
    try:
        own.update(do_sample=True, temperature=5.0, repetition_penalty=3.0)
        assert _answers(talkative, examples) == expected
    finally:
        own.update(do_sample=False, temperature=1.0, repetition_penalty=1.0)


def test_progress_counts_answered_examples(talkative):
    done: list[tuple[int, int]] = []
    generate_answers(
        talkative,
        _long_and_short(),
        load_image,
        max_new_tokens=1,
        batch_size=3,
        on_progress=lambda *counts: done.append(counts),
    )
    assert done == [(3, 7), (6, 7), (7, 7)]


def test_no_examples_give_no_answers(talkative):
    assert _answers(talkative, []) == []


def test_an_example_without_an_answer_turn_is_refused(talkative):
    with pytest.raises(BadDataError, match="no assistant turn"):
        _answers(talkative, [Example("0" * 32, (Turn("user", "Which?"),))])


def test_a_trained_model_answers_and_stops():
    lvlm = tiny_llava()
    train_full(
        lvlm,
        mixed_pool(480),
        load_image,
        settings(learning_rate=1e-2),
        checkpoint_steps=[1],
        on_checkpoint=ignore_checkpoint,
        on_progress=ignore_progress,
    )
    held_out = [image_example(colour, 900 + number) for number, colour in enumerate(COLOURS)] + [text_example(900)]
    answers = _answers(lvlm, held_out)
    assert answers == ["red", "green", "blue", "yellow", "one two three"]
    assert exact_match(answers, [lvlm.answer_text(example) for example in held_out]).tolist() == [1.0] * 5


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("base")
    tiny_llava().save(directory)
    return directory


@pytest.fixture(scope="module")
def adapter_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_toy_target(tmp_path_factory.mktemp("target")).directory


def test_a_target_without_adapter_is_its_base(base_dir):
    base, target = LVLM.load(base_dir), load_target(base_dir, None)
    for (name, weight), (other_name, other) in zip(
        base.model.named_parameters(), target.model.named_parameters(), strict=True
    ):
        assert name == other_name
        assert torch.equal(weight, other)


def test_a_target_carries_its_adapter_unmerged(base_dir, adapter_dir):
    target, base = load_target(base_dir, adapter_dir), LVLM.load(base_dir)
    weights = dict(target.model.named_parameters())
    [name] = [name for name in weights if name.endswith("layers.0.self_attn.q_proj.base_layer.weight")]
    assert torch.equal(weights[name], dict(base.model.named_parameters())[name.replace(".base_layer", "")])
    assert not target.model.training
    # A target in another object gives the same answers: nothing of the adapter is drawn at load.
    again = load_target(base_dir, adapter_dir)
    assert _answers(target, _long_and_short()) == _answers(again, _long_and_short())


def test_a_missing_adapter_is_refused(base_dir, tmp_path):
    with pytest.raises(UsageError, match="No LoRA adapter at"):
        load_target(base_dir, tmp_path)


def test_an_adapter_of_another_model_is_refused(adapter_dir, tmp_path):
    tiny_llava(num_layers=4).save(tmp_path)
    with pytest.raises(UsageError, match="does not fit"):
        load_target(tmp_path, adapter_dir)
