"""Models that cannot be trained: told as such, before or at the first step."""

from __future__ import annotations

import pytest

from tests.tiny_models import tiny_llava
from tests.training.toy import ignore_adapter, ignore_progress, image_pool, load_image, settings
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
