from __future__ import annotations

import math

import pytest
import torch

from tests.tiny_models import tiny_llava
from tests.training.toy import image_example, load_image, mixed_pool, text_example
from xmas_job.errors import BadDataError
from xmas_job.training.batches import (
    Collate,
    ExamplesInOrder,
    answer_loss,
    counts_of,
    image_filler,
    num_answers,
)


def test_loss_is_the_summed_log_likelihood_of_the_next_answer_token_over_the_tokens_of_the_step():
    probabilities = torch.tensor([[[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]], [[0.3, 0.7], [0.6, 0.4], [0.5, 0.5]]])
    labels = torch.tensor([[-100, 1, 0], [-100, -100, 1]])
    # Answer tokens: label 1 predicted at row 0 place 0 (0.5), label 0 at place 1 (0.9), label 1 at row 1 place 1 (0.4).
    value = answer_loss({"logits": probabilities.log()}, labels, num_items_in_batch=torch.tensor(6))
    assert value.item() == pytest.approx(-(math.log(0.5) + math.log(0.9) + math.log(0.4)) / 6)


def test_a_batch_without_any_answer_token_has_no_loss_and_no_gradient():
    logits = torch.randn(2, 3, 5, requires_grad=True)
    value = answer_loss({"logits": logits}, torch.full((2, 3), -100), num_items_in_batch=torch.tensor(0))
    value.backward()
    assert value.item() == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_examples_come_in_the_given_order_cut_to_the_maximum_length():
    examples = mixed_pool(4)
    feed = ExamplesInOrder(tiny_llava(), examples, [3, 0, 2, 0], load_image, max_length=25)
    assert [feed[position].uid for position in range(len(feed))] == [examples[index].uid for index in (3, 0, 2, 0)]
    assert max(len(feed[position].input_ids) for position in range(len(feed))) == 25


def test_an_answer_anywhere_in_the_data_is_enough():
    lvlm, examples = tiny_llava(), [image_example("red"), text_example()]
    short = len(lvlm.encode(examples[1], []).input_ids)
    ExamplesInOrder(lvlm, examples, [0, 1], load_image, max_length=short).require_an_answer()


def test_data_without_any_answer_token_is_refused_with_its_size():
    feed = ExamplesInOrder(tiny_llava(), mixed_pool(6), range(6), load_image, max_length=5)
    with pytest.raises(BadDataError, match=r"None of the 6 examples .* max_length 5.* Raise max_length"):
        feed.require_an_answer()


def test_a_batch_carries_what_the_model_needs_and_no_cache():
    lvlm = tiny_llava()
    batch = Collate(lvlm)([lvlm.encode(image_example("red"), [load_image("red")]), lvlm.encode(text_example(), [])])
    assert batch["labels"].shape == batch["input_ids"].shape
    assert batch["pixel_values"].shape[0] == 1
    assert batch["use_cache"] is False
    assert batch["num_fillers"] == 0
    assert batch["num_image_tokens"] == 16


def test_examples_tokens_answers_and_rows_without_one_are_counted_without_the_filler():
    labels = torch.tensor([[-100, 1, 0], [-100, -100, -100], [-100, -100, -100]])
    inputs = {"labels": labels, "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1]])}
    assert counts_of(inputs, torch.tensor(1), torch.tensor(3)).tolist() == [2, 8, 3, 2, 1]


def test_only_a_batch_without_an_image_gets_the_filler_and_it_has_no_labels():
    lvlm = tiny_llava()
    collate = Collate(lvlm, image_filler(lvlm))
    image, text = lvlm.encode(image_example("red"), [load_image("red")]), lvlm.encode(text_example(), [])
    with_image, without = collate([image, text]), collate([text, text])
    assert (len(with_image["labels"]), int(with_image["num_fillers"])) == (2, 0)
    assert (len(without["labels"]), int(without["num_fillers"]), len(without["pixel_values"])) == (3, 1, 1)
    assert (without["labels"][2] == -100).all()


def test_the_feed_is_filled_up_at_the_end_with_rows_that_teach_nothing():
    feed = ExamplesInOrder(tiny_llava(), mixed_pool(5), [0, 1, 2, 3, 4], load_image, max_length=64)
    feed.padded_to = 4
    assert (len(feed), feed.num_examples) == (8, 5)
    assert [bool((feed[position].labels != -100).any()) for position in range(8)] == [True] * 5 + [False] * 3


def test_weighted_loss_counts_an_example_as_often_as_it_weighs():
    probabilities = torch.tensor([[[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]], [[0.3, 0.7], [0.6, 0.4], [0.5, 0.5]]])
    labels, weights = torch.tensor([[-100, 1, 0], [-100, -100, 1]]), torch.tensor([0.5, 3.0])
    count = num_answers(labels, weights)
    assert count.item() == 0.5 * 2 + 3 * 1
    value = answer_loss({"logits": probabilities.log()}, labels, count, weights)
    assert value.item() == pytest.approx(-(0.5 * (math.log(0.5) + math.log(0.9)) + 3 * math.log(0.4)) / 4)


def test_small_weights_are_not_lost_in_the_divisor():
    logits = torch.tensor([[[0.25, 0.75], [0.5, 0.5]]]).log()
    labels, weights = torch.tensor([[-100, 1]]), torch.tensor([0.1])
    value = answer_loss({"logits": logits}, labels, num_answers(labels, weights), weights)
    assert value.item() == pytest.approx(-math.log(0.75))  # 0.1 x loss / 0.1 tokens


def test_weights_are_those_of_the_rows_and_a_filler_needs_none():
    lvlm = tiny_llava()
    first, second = text_example(1), text_example(2)
    collate = Collate(lvlm, image_filler(lvlm), {first.uid: 0.5, second.uid: 2.0})
    batch = collate([lvlm.encode(second, []), lvlm.encode(first, [])])
    assert batch["example_weights"].tolist() == [2.0, 0.5, 1.0]
    assert "example_weights" not in Collate(lvlm)([lvlm.encode(first, [])])
