"""Weights and inputs that both sides of a comparison build from names alone.

`golden/official.safetensors` holds only outputs of the official repository, and this file says how
to make them again.

Where: github.com/deepseek-ai/Janus at 1daa72f, Python 3.11, transformers 4.48.3, torch 2.15 on the
CPU in float32, eager attention, one thread.  `attrdict` needs the abstract classes put back into
`collections` first; the repository's `janus/__init__.py` does that by itself.

Model: a `MultiModalityCausalLM` of the sizes in `tiny_official()` below.
- Understanding encoder: an entry of those sizes added to `SigLIP_MODEL_CONFIG` (pooling "map"), and
  a `CLIPVisionTower` of that name with select_layer -1.
- Image tokenizer: an entry added to `VQ_models` that builds `VQModel` with the code count, z channels
  and multipliers, then replaces its encoder and decoder by ones with the smaller `ch`.
- Adaptors `MlpProjector` (mlp_gelu, depth 2), head `vision_head` with `image_token_embed` = the
  hidden width, language model a `LlamaConfig` of the core's sizes, untied.
- Every tensor of its `state_dict()` replaced by `recipe_weights` of its keys and shapes, evaluation mode.

Outputs, by their names in the file (inputs are `golden_inputs()`):
- `vision`, `aligner`: `vision_model(pictures)`, and `aligner` of that.
- `hidden`, `text_logits`: the language model's last hidden state and its logits on
  `prepare_inputs_embeds` of the question, both pictures in it; `text_tokens`: its `generate`,
  greedy, 24 tokens, no end token, cache on.
- `drawing_tokens`: `generation_inference.py`'s loop for one picture, guidance 5, with the
  multinomial draw replaced by the argmax; `drawing_logits`: the conditional and the unconditional
  logits (2, tokens, codes) that the loop saw; `gen_aligner`: `prepare_gen_img_embeds` of the tokens.
- `decoded`: `gen_vision_model.decode_code` of the tokens; `codes`: the indices of
  `gen_vision_model.encode(pictures)`; `reconstructed`: `decode_code` of those.
The metadata holds the versions and, as JSON, the shape of every tensor of the state dict.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from janus.config import CoreConfig, ImageConfig, JanusConfig, VisionConfig, VqConfig


def uniform(name: str, shape: tuple[int, ...]) -> Tensor:
    """Numbers in [-1, 1), the same on every machine.

    The raw 64-bit stream of numpy's Philox generator seeded with the CRC-32 of the name, the upper
    53 bits of each word taken as a fraction.
    """
    words = np.random.Philox(zlib.crc32(name.encode())).random_raw(prod(shape))
    fractions = (words >> np.uint64(11)) * 2.0**-53
    return torch.from_numpy((2 * fractions - 1).astype(np.float32).reshape(shape))


def recipe_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """A float32 tensor for each key, sized so that activations stay near one.

    `uniform` scaled to unit variance, x, then by kind: vectors called weight 1 + 0.1 x, other
    vectors 0.1 x; tensors of more axes x / sqrt(fan in), the fan in being the numbers behind one index of
    the first axis longer than 1; the rows of the image tokenizer's codebook scaled to unit length;
    its unused `codebook_used` zero.
    """
    return {key: _weight(key, shapes[key]) for key in sorted(shapes)}


def _weight(key: str, shape: tuple[int, ...]) -> Tensor:
    x = uniform(key, shape) * 3**0.5
    if key.endswith("codebook_used"):
        return torch.zeros(shape)
    if len(shape) < 2:
        return 1 + 0.1 * x if key.endswith("weight") else 0.1 * x
    if key.endswith("quantize.embedding.weight"):
        return torch.nn.functional.normalize(x, dim=-1)
    rows = next(length for length in shape if length > 1)
    return x * (rows / prod(shape)) ** 0.5


def tiny_official() -> JanusConfig:
    """The sizes of the golden model: everything the official classes can do, as small as they allow."""
    core = CoreConfig(
        vocab_size=128,
        width=64,
        heads=4,
        kv_heads=2,
        attention=("gqa",) * 2,
        feed_forward=("dense",) * 2,
        ffn_width=96,
        max_positions=256,
    )
    return JanusConfig(
        core=core,
        vision=VisionConfig(image_size=32, patch_size=8, width=32, depth=2, heads=2, ffn_width=64),
        vq=VqConfig(image_size=32, codes=256, z_channels=16, channels=32, multipliers=(1, 2, 2)),
        image=ImageConfig(size=32),
        gen_head_width=48,
    )


@dataclass(frozen=True)
class GoldenInputs:
    """What the golden model was asked.  Token ids are arbitrary: the model has no tokenizer."""

    pictures: Tensor  # (2, 3, 32, 32) in [-1, 1)
    question: list[int]  # understanding, `image_id` wherever a patch of a picture goes
    image_id: int
    request: list[int]  # drawing, from the beginning of sentence to the beginning of image
    pad_id: int  # what the unconditional row has between its first and last token


def golden_inputs() -> GoldenInputs:
    """The inputs of all golden outputs."""
    picture = [3, *[5] * tiny_official().vision.tokens, 4]
    question = [1, 20, 21, *picture, 22, 23, *picture, 24, 25, 26, 27]
    return GoldenInputs(uniform("pictures", (2, 3, 32, 32)), question, 5, [1, 30, 31, 32, 33, 34, 3], 2)
