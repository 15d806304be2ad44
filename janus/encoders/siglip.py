"""SigLIP, the encoder of understanding: pixels to one feature vector per patch.

Shapes: N pictures, S picture side, P patches per picture, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from janus.config import VisionConfig
from janus.kernels.linear import Linear, adopt

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer


class SiglipTower(nn.Module):
    """SigLIP (arXiv 2303.15343) as timm builds it, named as in the official Janus checkpoints.

    The checkpoints carry SigLIP's pooling head (`attn_pool`), which Janus never runs; it is kept so
    that files survive reading and writing whole.

    On the meta device, where models are built to be given a checkpoint's tensors, timm's module waits for
    the first picture (`build`): importing it takes longer than drawing.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        waits = torch.get_default_device().type == "meta"
        self.vision_tower: _Parts | VisionTransformer = _Parts(config) if waits else _by_timm(config)

    def build(self) -> VisionTransformer:
        """timm's module, with the very parameters that are here; to watch its layers, call this first."""
        if isinstance(self.vision_tower, _Parts):
            with torch.device("meta"):
                made = _by_timm(self.config, "skip")
            for name, parameter in self.vision_tower.named_parameters():
                owner, _, own = name.rpartition(".")
                made.get_submodule(owner).register_parameter(own, parameter)
            self.vision_tower = made.train(self.training)
            return made
        return self.vision_tower

    def forward(self, pixels: Tensor) -> Tensor:
        """Prepared pixels (N, 3, S, S) to features after the last norm (N, P, D).

        Raises ValueError for another shape: the position embeddings are learned for one size.
        """
        side = self.config.image_size
        if pixels.ndim != 4 or pixels.shape[1:] != (3, side, side):
            raise ValueError(
                f"pixels of shape {tuple(pixels.shape)}; this encoder takes (N, 3, {side}, {side})"
            )
        return self.build().forward_features(pixels)


def _by_timm(config: VisionConfig, weight_init: str = "") -> VisionTransformer:
    from timm.models.vision_transformer import VisionTransformer

    made = VisionTransformer(
        img_size=config.image_size,
        patch_size=config.patch_size,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        mlp_ratio=(config.ffn_width + 0.5) / config.width,  # timm truncates ratio * width to an integer
        class_token=False,
        global_pool="map",
        num_classes=0,
        weight_init=weight_init,
    )
    adopt(made)
    return made


class _Parts(nn.ModuleDict):
    """The parameters of timm's module under their names, which cannot be run."""

    def __init__(self, config: VisionConfig) -> None:
        width, patch = config.width, config.patch_size

        def mlp() -> nn.Module:
            return nn.ModuleDict(
                {"fc1": Linear(width, config.ffn_width), "fc2": Linear(config.ffn_width, width)}
            )

        def block() -> nn.Module:
            attn = {"qkv": Linear(width, 3 * width), "proj": Linear(width, width)}
            parts = {"norm1": nn.LayerNorm(width), "attn": nn.ModuleDict(attn)}
            return nn.ModuleDict({**parts, "norm2": nn.LayerNorm(width), "mlp": mlp()})

        pool = nn.ModuleDict(
            {
                "q": Linear(width, width),
                "kv": Linear(width, 2 * width),
                "proj": Linear(width, width),
                "norm": nn.LayerNorm(width),
                "mlp": mlp(),
            }
        )
        pool.register_parameter("latent", nn.Parameter(torch.empty(1, 1, width)))
        super().__init__(
            {
                "patch_embed": nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)}),
                "blocks": nn.ModuleList(block() for _ in range(config.depth)),
                "norm": nn.LayerNorm(width),
                "attn_pool": pool,
            }
        )
        self.pos_embed = nn.Parameter(torch.empty(1, config.tokens, width))
