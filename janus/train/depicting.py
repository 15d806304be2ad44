"""Depicting: a loss that teaches the core, where a caption names a thing, which codes will draw it.

The image loss asks for a thing's codes where they are due, so that a name has to be found and translated
in one go.  Here the last token of "a red car" is asked for that car's codes, halfway up the core: then
drawing has only to find the right words and to read off what is already there.  It is `janus.train.naming`
the other way round.

Shapes: B rows, T tokens, D width, M mentions, W codes at most of one thing.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from janus.model import Batch, JanusModel


class Depicting(nn.Module):
    """Asks through a matrix of its own, which is not part of the trained model."""

    def __init__(self, model: JanusModel) -> None:
        super().__init__()
        width = model.config.core.width
        self.turn = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.turn.weight)
        self.between: Tensor | None = None  # (B, T, D) halfway up the core, of the last pass
        layers = model.core.layers
        layers[(len(layers) - 1) // 2].register_forward_hook(self._keep)

    def _keep(self, _layer: nn.Module, _given: object, out: Tensor) -> None:
        self.between = out

    def forward(self, model: JanusModel, batch: Batch) -> Tensor:
        """The mean loss over the mentions of the batch whose pass through the core was the last one.

        Half of it is for a thing's first code, which only its name can tell, half for all of them alike.
        """
        between, self.between = self.between, None
        assert between is not None
        if batch.mentions is None or batch.mention_codes is None:
            return 0 * self.turn.weight.float().sum()  # with several processes every part takes part
        vectors = self.turn(F.rms_norm(between[batch.mentions].float(), between.shape[-1:]))
        chances = model.image_logits(vectors.to(between.dtype)).float().log_softmax(-1)  # (M, codes)
        known = batch.mention_codes >= 0
        each = -chances.gather(1, batch.mention_codes.clamp(min=0)) * known  # (M, W)
        return ((each[:, 0] + each.sum(1) / known.sum(1)) / 2).mean()
