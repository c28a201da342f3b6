"""A tiny LLaVA on disk, random weights and all, and groups whose prompts hold a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import AddedToken
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from tests.tuning.text_models import config_of, tiny_tokenizer

TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% if message['role'] == 'assistant' %}</s>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
COLOURS = {"red": (250, 10, 10), "blue": (10, 10, 250)}


def save_llava(folder: Path, *, seed: int = 0, words: Sequence[str] = ()) -> Path:
    """CLIP on pictures of 16 × 16 with patches of 8, so four tokens a picture, before a Llama. ``words`` get
    tokens of their own.
    """
    tokenizer = tiny_tokenizer(template=TEMPLATE)
    tokenizer.add_tokens(list(words))
    tokenizer.add_tokens([AddedToken("<image>", special=True, normalized=False)], special_tokens=True)
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=16,
        patch_size=8, projection_dim=32,
    )  # fmt: skip
    torch.manual_seed(seed)
    config = LlavaConfig(
        vision_config=vision,
        text_config=config_of("llama", tokenizer, initializer_range=0.2),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return folder


def pictured_rows(folder: Path, count: int = 8) -> list[dict[str, Any]]:
    """Which colour a picture has: the right word is preferred. The pictures go to ``folder``/data/media."""
    media = folder / "data" / "media"
    media.mkdir(parents=True, exist_ok=True)
    for name, colour in COLOURS.items():
        Image.new("RGB", (20, 24), colour).save(media / f"{name}.png")
    rows = []
    for number in range(count):
        name = list(COLOURS)[number % 2]
        parts = [
            {"type": "image", "image": f"{name}.png"},
            {"type": "text", "text": f"What colour, number {number // 2}?"},
        ]
        rows.append(
            {
                "prompt": [{"role": "user", "content": parts}],
                "candidates": [{"text": "it is red"}, {"text": "it is blue, I think"}],
                "judgements": [{"choice": number % 2}],
            }
        )
    return rows
