"""What joins the two visual encoders to the core, and the core to the image codes.

Shapes: D_in width of a visual feature, D core width, F hidden width of the head, C codes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from janus.kernels.linear import Linear


class MlpAdaptor(nn.Module):
    """(..., D_in) to (..., D): `depth` linear layers with the exact GELU between them.

    The official projector `mlp_gelu`; keys `layers.0`, `layers.2`, ...  Raises ValueError for a
    depth below 1.
    """

    def __init__(self, width_in: int, width: int, depth: int = 2) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"an adaptor of depth {depth}; it needs at least one layer")
        self.layers = nn.Sequential(Linear(width_in, width))
        for _ in range(depth - 1):
            self.layers.extend([nn.GELU(), Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ImageHead(nn.Module):
    """The core's output (..., D) to the logits of the next image code (..., C)."""

    def __init__(self, width: int, hidden_width: int, codes: int) -> None:
        super().__init__()
        self.output_mlp_projector = Linear(width, hidden_width)
        self.vision_head = Linear(hidden_width, codes)

    def forward(self, x: Tensor) -> Tensor:
        return self.vision_head(F.gelu(self.output_mlp_projector(x)))
