from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny_models import tiny_llava, tiny_qwen
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


def _teach(lvlm: LVLM, num_examples: int) -> None:
    train_full(
        lvlm,
        mixed_pool(num_examples),
        load_image,
        settings(learning_rate=1e-2),
        checkpoint_steps=[1],
        on_checkpoint=ignore_checkpoint,
        on_progress=ignore_progress,
    )


def _held_out() -> list[Example]:
    return [image_example(colour, 900 + number) for number, colour in enumerate(COLOURS)] + [text_example(900)]


def _long_and_short() -> list[Example]:
    """Seven conversations the model was not trained on, of many lengths, and the five of `_held_out`."""
    questions = ["Which?", "Which colour is the circle left of the square?", "How many squares are there?"]
    conversations = [
        (Turn("user", "Is it red?", 1), Turn("assistant", "no"), Turn("user", questions[1]), Turn("assistant", "x")),
        *((Turn("user", question, 1), Turn("assistant", "x")) for question in questions),
        *((Turn("user", question), Turn("assistant", "x")) for question in questions),
    ]
    return _held_out() + [
        Example(f"{index:032x}", turns, ("green",) if turns[0].num_images else ())
        for index, turns in enumerate(conversations)
    ]


@pytest.fixture(scope="module")
def trained() -> LVLM:
    lvlm = tiny_llava()
    _teach(lvlm, 480)
    return lvlm


def test_answers_equal_straight_line_greedy_decoding(trained):
    examples = _long_and_short()
    answers = _answers(trained, examples)
    assert answers == [_straight_line_answer(trained, example, 12) for example in examples]
    assert len(set(answers)) >= 5  # the model does tell the prompts apart


def test_answers_do_not_depend_on_the_batch_or_the_order(trained):
    examples = _long_and_short()
    alone = _answers(trained, examples, batch_size=1)
    assert _answers(trained, examples, batch_size=3) == alone
    assert _answers(trained, examples[::-1], batch_size=7) == alone[::-1]


def test_answers_keep_their_order_over_many_windows(trained):
    examples = _long_and_short()
    many = examples * 3  # 36 examples: three windows at a batch size of 1
    assert _answers(trained, many, batch_size=1, max_new_tokens=2) == _answers(trained, examples, max_new_tokens=2) * 3


def test_a_model_with_rotary_sections_answers_as_straight_line_decoding():
    lvlm, examples = tiny_qwen(), _long_and_short()
    _teach(lvlm, 400)
    expected = [_straight_line_answer(lvlm, example, 6) for example in examples]
    assert _answers(lvlm, examples, max_new_tokens=6) == expected
    assert len(set(expected)) >= 3


def test_sampling_and_penalties_of_the_model_are_overruled(trained):
    examples = _long_and_short()
    expected = _answers(trained, examples)
    own = trained.model.generation_config
    try:
        own.update(do_sample=True, temperature=5.0, repetition_penalty=3.0)
        assert _answers(trained, examples) == expected
    finally:
        own.update(do_sample=False, temperature=1.0, repetition_penalty=1.0)


def test_generation_ends_with_the_last_answer_of_a_batch(trained):
    forwards: list[object] = []
    hook = trained.model.register_forward_hook(lambda *_: forwards.append(1))
    answers = _answers(trained, _held_out()[:4], max_new_tokens=100)
    hook.remove()
    longest = max(len(trained.processor.tokenizer(f" {answer}").input_ids) for answer in answers)
    assert len(forwards) == longest + 1  # one a token, and one for the stop token


def test_progress_counts_answered_examples(trained):
    done: list[tuple[int, int]] = []
    generate_answers(
        trained,
        _long_and_short(),
        load_image,
        max_new_tokens=1,
        batch_size=5,
        on_progress=lambda *counts: done.append(counts),
    )
    assert done == [(5, 12), (10, 12), (12, 12)]


def test_no_examples_give_no_answers(trained):
    assert _answers(trained, []) == []


def test_an_example_without_an_answer_turn_is_refused(trained):
    with pytest.raises(BadDataError, match="no assistant turn"):
        _answers(trained, [Example("0" * 32, (Turn("user", "Which?"),))])


def test_a_trained_model_answers_and_stops(trained):
    answers = _answers(trained, _held_out())
    assert answers == ["red", "green", "blue", "yellow", "one two three"]
    assert exact_match(answers, [trained.answer_text(example) for example in _held_out()]).tolist() == [1.0] * 5


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


def test_an_adapter_of_another_family_is_refused(adapter_dir, tmp_path):
    tiny_qwen().save(tmp_path)
    with pytest.raises(UsageError, match="does not fit"):
        load_target(tmp_path, adapter_dir)


def test_an_adapter_of_a_shallower_model_is_refused(base_dir, adapter_dir, tmp_path):
    (tmp_path / "adapter_config.json").write_bytes((adapter_dir / "adapter_config.json").read_bytes())
    weights = load_file(adapter_dir / "adapter_model.safetensors")
    save_file({n: w for n, w in weights.items() if ".layers.2." not in n}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UsageError, match="does not fit"):
        load_target(base_dir, tmp_path)
