"""Tiny vision-language models with locally built tokenizer, processor and chat template: deterministic, no hub.

`tiny_llava` (CLIP tower, Llama decoder, grouped keys) writes "USER: ...\\nASSISTANT: ...</s>"; `tiny_qwen` (Qwen2.5-VL)
writes "<|im_start|>role\\n...<|im_end|>\\n". Both tokenize by bytes-level BPE on a small fixed corpus.
"""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    AutoProcessor,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessorPil,
)

from xmas_job.models.adapter import LVLM

LLAVA_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'] | upper + ':' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ ' <image>\n' if loop.last else ' <image>' }}"
    "{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ ' ' + part['text'] }}{% endfor %}"
    "{{ '</s>' if message['role'] == 'assistant' else '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
QWEN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}"
    "{{ '<|vision_start|><|image_pad|><|vision_end|>' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}"
    "{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_CORPUS = [
    "USER: Which colour is the circle? ASSISTANT: red green blue yellow",
    "How many squares are there? one two three four five",
    "Is the triangle left of the square? yes no above below",
]


def build_tokenizer(special_tokens: list[str], **roles: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on a fixed corpus; `roles` name the bos, eos and pad tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


def tiny_llava(
    seed: int = 0, *, text_config: PreTrainedConfig | None = None, chat_template: str = LLAVA_TEMPLATE
) -> LVLM:
    """Llava: 16 image tokens of a 32x32 image, width 32, 4 query heads, 2 key heads, biased projections."""
    tokenizer = build_tokenizer(["<pad>", "</s>", "<image>"], eos_token="</s>", pad_token="<pad>")
    image_processor = CLIPImageProcessorPil(size={"height": 32, "width": 32}, crop_size={"height": 32, "width": 32})
    processor = LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=8,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
        chat_template=chat_template,
        image_token="<image>",
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=32,
            patch_size=8,
            projection_dim=32,
        ),
        text_config=text_config or LlamaConfig(attention_bias=True, **text_sizes(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    torch.manual_seed(seed)
    return LVLM(_with_random_biases(LlavaForConditionalGeneration(config)), processor)


class ImageQwenProcessor(Qwen2_5_VLProcessor):  # type: ignore[misc]
    """Qwen2.5-VL's processor without its video part, which needs torchvision."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


AutoProcessor.register(Qwen2_5_VLConfig, ImageQwenProcessor, exist_ok=True)


def tiny_qwen(seed: int = 0) -> LVLM:
    """Qwen2.5-VL: image tokens vary with the image's size (one for 16x16 pixels), 4 query heads, 2 key heads."""
    special_tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
    special_tokens += ["<|image_pad|>", "<|video_pad|>"]
    tokenizer = build_tokenizer(special_tokens, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    image_processor = Qwen2VLImageProcessorPil(
        patch_size=8, merge_size=2, size={"shortest_edge": 16 * 16, "longest_edge": 96 * 96}
    )
    processor = ImageQwenProcessor(image_processor=image_processor, tokenizer=tokenizer, chat_template=QWEN_TEMPLATE)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in special_tokens}
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 4,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "window_size": 32,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
        },
        text_config={
            **text_sizes(tokenizer),
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    torch.manual_seed(seed)
    return LVLM(_with_random_biases(Qwen2_5_VLForConditionalGeneration(config)), processor)


def sharpen(model: Any, factor: float = 8) -> None:
    """Multiply the decoder's q_proj and k_proj weights: a fresh model attends almost uniformly and hides mistakes."""
    for name, parameter in model.get_decoder().named_parameters():
        if name.endswith(("q_proj.weight", "k_proj.weight", "qkv_proj.weight")):
            parameter.data.mul_(factor)


def text_sizes(tokenizer: Any) -> dict[str, int | None]:
    """The sizes of both decoders."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _with_random_biases(model: Any) -> Any:
    """Biases start at zero; a test must see them."""
    for name, parameter in model.named_parameters():
        if name.endswith("proj.bias"):
            nn.init.normal_(parameter, std=0.3)
    return model.eval()
