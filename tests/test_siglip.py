"""The understanding encoder: official names, transformers' numbers, any size, only its own pictures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import JanusVisionConfig, JanusVisionModel

from janus.config import PRESETS, VisionConfig
from janus.encoders.siglip import SiglipTower
from tests.recipe import recipe_weights, uniform

TINY = VisionConfig(image_size=32, patch_size=8, width=32, depth=3, heads=2, ffn_width=80)
OURS_TO_THEIRS = {
    "vision_tower.patch_embed.proj": "embeddings.patch_embedding",
    "vision_tower.blocks": "encoder.layers",
    "vision_tower.norm": "post_layernorm",
    ".norm1": ".layer_norm1",
    ".norm2": ".layer_norm2",
    "attn.proj": "self_attn.projection_layer",
}


def tower(config: VisionConfig) -> SiglipTower:
    model = SiglipTower(config).eval()
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    model.load_state_dict(recipe_weights(shapes))
    return model


def transformers_tower(config: VisionConfig, ours: SiglipTower) -> Any:
    theirs = JanusVisionModel(
        JanusVisionConfig(
            hidden_size=config.width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            image_size=config.image_size,
            patch_size=config.patch_size,
            mlp_ratio=config.ffn_width / config.width,
        )
    )
    state: dict[str, Tensor] = {}
    for key, tensor in ours.state_dict().items():
        if "attn_pool" in key:
            continue
        if key.endswith("pos_embed"):
            state["embeddings.position_embedding.weight"] = tensor[0]
            continue
        for own, their in OURS_TO_THEIRS.items():
            key = key.replace(own, their)
        if ".attn.qkv." in key:
            for name, part in zip("qkv", tensor.chunk(3), strict=True):
                state[key.replace(".attn.qkv.", f".self_attn.{name}_proj.")] = part
        else:
            state[key] = tensor
    theirs.load_state_dict(state)
    return theirs.eval()


def test_names_and_shapes_are_the_official_ones() -> None:
    with torch.device("meta"):
        model = SiglipTower(PRESETS["janus-pro-1b"].vision)
    prefix = "vision_model."
    official = json.loads((Path(__file__).parent / "golden" / "official_keys_1b.json").read_text())
    expected = {key.removeprefix(prefix): shape for key, shape in official.items() if key.startswith(prefix)}
    assert len(expected) == 306
    assert {key: list(tensor.shape) for key, tensor in model.state_dict().items()} == expected


def test_what_waits_for_timm_has_its_names_and_becomes_it() -> None:
    with torch.device("meta"):
        waiting = SiglipTower(TINY).eval()
    ready = tower(TINY)
    both = [[(name, p.shape) for name, p in t.named_parameters()] for t in (waiting, ready)]
    assert both[0] == both[1]
    waiting.load_state_dict(ready.state_dict(), assign=True)
    held = dict(waiting.named_parameters())
    held["vision_tower.norm.bias"].requires_grad_(False)
    pixels = uniform("pixels", (2, 3, 32, 32))
    assert torch.equal(waiting(pixels), ready(pixels))
    assert [type(m) for m in waiting.modules()] == [type(m) for m in ready.modules()]
    assert all(p is held[name] for name, p in waiting.named_parameters())  # an optimizer may hold them
    assert not held["vision_tower.norm.bias"].requires_grad
    assert not any(module.training for module in waiting.modules())


def test_drawing_does_not_wait_for_timm() -> None:
    """Its import takes longer than that of torch and a picture together."""
    code = (
        "import sys; from janus import Janus; Janus.from_pretrained().generate_images('a red cup', seed=0); "
        "print([name for name in ('timm', 'torchvision', 'torch._dynamo') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", done.stdout


@pytest.mark.parametrize("config", [TINY, replace(TINY, image_size=48, patch_size=16, heads=4)])
@torch.no_grad()
def test_transformers_agrees(config: VisionConfig) -> None:
    ours = tower(config)
    pixels = uniform("pixels", (3, 3, config.image_size, config.image_size))
    features = ours(pixels)
    assert features.shape == (3, config.tokens, config.width)
    theirs = transformers_tower(config, ours)(pixels).last_hidden_state
    assert (features - theirs).abs().max() <= 1e-4 * theirs.abs().max()


def test_hidden_widths_that_no_ratio_gives_exactly() -> None:
    """timm takes a ratio and truncates; 1152 * (3456 / 1152) and the like must not lose a unit."""
    for ffn_width in range(40, 90):
        with torch.device("meta"):
            model = SiglipTower(replace(TINY, width=42, depth=1, ffn_width=ffn_width))
        shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
        assert shapes["vision_tower.blocks.0.mlp.fc1.weight"] == (ffn_width, 42)
        assert shapes["vision_tower.attn_pool.mlp.fc1.weight"] == (ffn_width, 42)


@torch.no_grad()
def test_the_pooling_head_is_kept_but_plays_no_part() -> None:
    model = tower(TINY)
    pixels = uniform("pixels", (1, 3, 32, 32))
    before = model(pixels)
    for name, parameter in model.named_parameters():
        if "attn_pool" in name:
            parameter.fill_(torch.nan)
    assert torch.equal(model(pixels), before)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 3, 32, 24), (1, 4, 32, 32), (2, 3, 64, 64)])
def test_pictures_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{shape}; this encoder takes (N, 3, 32, 32)")):
        tower(TINY)(torch.zeros(shape))
