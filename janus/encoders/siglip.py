"""SigLIP, the encoder of understanding: pixels to one feature vector per patch.

Shapes: N pictures, S picture side, P patches per picture, D width.
"""

from __future__ import annotations

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from janus.config import VisionConfig
from janus.kernels.linear import adopt


class SiglipTower(nn.Module):
    """SigLIP (arXiv 2303.15343) as timm builds it, named as in the official Janus checkpoints.

    The checkpoints carry SigLIP's pooling head (`attn_pool`), which Janus never runs; it is kept so
    that files survive reading and writing whole.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_tower = VisionTransformer(
            img_size=config.image_size,
            patch_size=config.patch_size,
            embed_dim=config.width,
            depth=config.depth,
            num_heads=config.heads,
            mlp_ratio=(config.ffn_width + 0.5) / config.width,  # timm truncates ratio * width to an integer
            class_token=False,
            global_pool="map",
            num_classes=0,
        )
        adopt(self.vision_tower)

    def forward(self, pixels: Tensor) -> Tensor:
        """Prepared pixels (N, 3, S, S) to features after the last norm (N, P, D).

        Raises ValueError for another shape: the position embeddings are learned for one size.
        """
        side = self.config.image_size
        if pixels.ndim != 4 or pixels.shape[1:] != (3, side, side):
            raise ValueError(
                f"pixels of shape {tuple(pixels.shape)}; this encoder takes (N, 3, {side}, {side})"
            )
        return self.vision_tower.forward_features(pixels)
