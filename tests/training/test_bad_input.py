"""Models that cannot be trained: told as such, before or at the first step."""

from __future__ import annotations

import pytest

from tests.tiny_models import tiny_llava
from tests.training.toy import ignore_adapter, ignore_progress, image_pool, load_image, settings
from xmas_job.data.examples import Example, Turn, compute_uid
from xmas_job.errors import BadDataError
from xmas_job.training.sft import train_lora


def test_image_tokens_that_do_not_match_the_models_features_are_told_as_such():
    lvlm = tiny_llava()
    lvlm.processor.num_additional_image_tokens = 0  # 15 tokens for 16 features: the class token is taken off twice
    with pytest.raises(BadDataError, match=r"other image tokens than the model has features.*tokens: 120"):
        train_lora(
            lvlm,
            image_pool(8),
            load_image,
            settings(),
            on_adapter=ignore_adapter,
            on_progress=ignore_progress,
        )


def test_too_many_answers_cut_off_are_told_at_the_end_of_a_short_training():
    """Few examples: before the end their share says little."""
    with pytest.raises(BadDataError, match=r"2 of 8 examples had no answer token left \(25.0%; the limit is 20.0%\)"):
        train_lora(
            tiny_llava(),
            [*image_pool(6), *long_text_pool(2)],
            load_image,
            settings(max_unsupervised_fraction=0.2),
            on_adapter=ignore_adapter,
            on_progress=ignore_progress,
        )


def long_text_pool(num_examples: int) -> list[Example]:
    """Questions that fill what an example may have of tokens."""
    turns = [(Turn("user", f"How many {number}? " * 200), Turn("assistant", "one")) for number in range(num_examples)]
    return [Example(compute_uid(two, ()), two, ()) for two in turns]
