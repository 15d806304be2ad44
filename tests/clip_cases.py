"""Things in pictures and a small CLIP that the official script and ours name the colours of.

`golden/clip_colours.json` holds only what the official code said, and this file says how to make that again.

Where: `color_classification` and `ImageCrops` of GenEval's evaluation/evaluate_images.py (commit af4902f),
open-clip-torch 2.20.0 and clip-benchmark 1.4.0, with torch 2.14 and torchvision 0.29 on the CPU in float32,
where the script's autocast does nothing.

Model: `load_openai_model` of a state dict in OpenAI's layout with the numbers of `weights()`; `transform` is
open_clip's `image_transform` of the model's size, `tokenizer` is `tokens` below.

Outputs, by the options `bgcolor` and `crop`: `run_classification`'s logits for the things of every one of
`cases()`, in the order of GenEval's colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zlib import crc32

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from janus.eval.detect import Detection, Mask
from tests.recipe import recipe_weights, uniform

OPTIONS = (("#999", True), ("original", True), ("#f0a010", False))
LENGTH, WORDS = 12, 400  # tokens of a sentence, words that there are
BOXES = (  # of a picture of 90 by 60: small, tall, wide; edges between pixels are rounded, halves to the even
    (10.0, 8.0, 40.0, 52.0),
    (30.4, 3.0, 41.6, 59.0),
    (2.0, 20.5, 88.0, 31.5),
    (60.5, 10.5, 63.5, 13.5),
)


def config() -> Any:
    """Of transformers: OpenAI's architecture, as small as its heads of 64 allow."""
    from transformers import CLIPConfig

    common = {"hidden_act": "quick_gelu", "num_hidden_layers": 2}
    text = common | {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_attention_heads": 1,
        "max_position_embeddings": LENGTH,
        "vocab_size": WORDS + 2,
        "eos_token_id": 2,  # as OpenAI's has it, which means the highest
        "bos_token_id": 0,
    }
    vision = common | {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=48)


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """By transformers' names, of the recipe of `recipe`; positions and the class token as large as the rest.

    Rounded to float16, as OpenAI's weights are and as open_clip rounds them.
    """
    made = recipe_weights(shapes)
    for name in made:
        if name.endswith(("token_embedding.weight", "position_embedding.weight")):
            made[name] *= made[name].shape[1] ** 0.5
        elif name.endswith("class_embedding"):
            made[name] *= 10
    return {name: value.half().float() for name, value in made.items()}


def tokens(texts: Sequence[str]) -> Tensor:
    """A number for each word, between a beginning and an end; nothing stands after it."""
    ids = torch.zeros(len(texts), LENGTH, dtype=torch.long)
    for row, text in zip(ids, texts, strict=True):
        words = [crc32(word.encode()) % (WORDS - 1) + 1 for word in text.replace("-", " - ").split()]
        row[: len(words) + 2] = torch.tensor([WORDS, *words, WORDS + 1])
    return ids


def cases() -> list[tuple[Image.Image, str, list[Detection]]]:
    """A picture, a class, and things of it, all but the first with a mask."""
    made = []
    for number, name in enumerate(("apple", "computer mouse")):
        blots = ((uniform(f"colours {number}", (4, 6, 3)).numpy() + 1) * 127.5).astype(np.uint8)
        picture = Image.fromarray(blots).resize((90, 60), Image.Resampling.BICUBIC)
        found = []
        for index, box in enumerate(BOXES):
            left, top, right, bottom = (round(side) for side in box)
            inside = np.zeros((60, 90), bool)
            shape = uniform(f"mask {number} {index}", (bottom - top, right - left)).numpy() < 0.6
            inside[top:bottom, left:right] = shape
            found.append(Detection(name, 0.9, box, mask=Mask.of(inside) if index else None))
        made.append((picture, name, found))
    return made
