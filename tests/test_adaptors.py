"""The adaptors and the image head against transformers' aligners and head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import JanusVisionConfig, JanusVQVAEConfig
from transformers.models.janus.modeling_janus import (
    JanusVisionAlignerMLP,
    JanusVQVAEAlignerMLP,
    JanusVQVAEHead,
)

from janus.encoders.adaptors import ImageHead, MlpAdaptor
from tests.recipe import recipe_weights, uniform


def filled(module: nn.Module) -> nn.Module:
    shapes = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    module.load_state_dict(recipe_weights(shapes))
    return module


def test_names_are_the_official_ones() -> None:
    names = {key.rpartition(".")[0] for key in MlpAdaptor(8, 16).state_dict()}
    assert names == {"layers.0", "layers.2"}
    assert {key.rpartition(".")[0] for key in ImageHead(8, 12, 20).state_dict()} == {
        "output_mlp_projector",
        "vision_head",
    }


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("kind", ["understanding", "generation"])
@torch.no_grad()
def test_adaptor_equals_transformers(depth: int, kind: str) -> None:
    theirs: Any
    if kind == "understanding":
        theirs = JanusVisionAlignerMLP(
            JanusVisionConfig(hidden_size=24, num_attention_heads=2, projection_dim=40, depth=depth)
        )
    else:
        theirs = JanusVQVAEAlignerMLP(
            JanusVQVAEConfig(embed_dim=24, projection_dim=40, num_hidden_layers=depth)
        )
    ours = filled(MlpAdaptor(24, 40, depth))
    linear = [module for module in ours.modules() if isinstance(module, nn.Linear)]
    for own, their in zip(linear, [theirs.fc1, *theirs.hidden_layers], strict=True):
        their.load_state_dict(own.state_dict())
    x = 3 * uniform("x", (2, 5, 24))
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_head_equals_transformers() -> None:
    theirs = JanusVQVAEHead(JanusVQVAEConfig(image_token_embed_dim=24, projection_dim=40, num_embeddings=50))
    ours = filled(ImageHead(24, 40, 50))
    theirs.proj_out.load_state_dict(ours.get_submodule("output_mlp_projector").state_dict())
    theirs.vision_head.load_state_dict(ours.get_submodule("vision_head").state_dict())
    x = 3 * uniform("x", (2, 5, 24))
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_an_adaptor_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="depth 0"):
        MlpAdaptor(8, 16, 0)
