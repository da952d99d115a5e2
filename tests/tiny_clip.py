"""A tiny CLIP with a locally built tokenizer: deterministic, no hub."""

from __future__ import annotations

import torch
from tokenizers import processors
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

from tests.tiny_models import build_tokenizer

MAX_LENGTH = 40
DIMENSION = 16


def tiny_clip(seed: int = 0) -> tuple[CLIPModel, CLIPProcessor]:
    """Two layers a tower, 32x32 images in four patches, 40 tokens, a space of 16 dimensions."""
    tokenizer = build_tokenizer(["<pad>", "</s>"], eos_token="</s>", pad_token="<pad>")
    # CLIP reads its text vector at the end-of-text token.
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.eos_token_id)]
    )
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CLIPConfig(
        text_config={
            **tower,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": MAX_LENGTH,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.eos_token_id,
        },
        vision_config={**tower, "image_size": 32, "patch_size": 16},
        projection_dim=DIMENSION,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPModel(config)
    images = CLIPImageProcessorPil(size={"height": 32, "width": 32}, crop_size={"height": 32, "width": 32})
    return model, CLIPProcessor(image_processor=images, tokenizer=tokenizer)
