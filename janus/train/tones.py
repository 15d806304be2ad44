"""A codebook in two parts: what is drawn in a cell, and in which tone.

A painted thing's codes are otherwise combinations to be learnt by heart, one set for each colour, and a
colour that the thing was never shown in cannot be drawn.  Here a code's vector is a shape's vector and a
tone's, one behind the other, as in product quantisation (Jégou et al., 2011); code = shape * tones + tone.
The codebook is still one table of unit vectors in the published layout: what ties its rows is training.

What makes the first part shape and the second tone: pictures come twice, the second time with their painted
things in other colours, and one is given back from the shapes of the other and tones of its own; and cells
of a painted thing have the tone of its colour.

Shapes: N pictures, K codes of one, E width of a code, S shapes, T tones.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus.config import VqConfig
from janus.tokenizers.image import VqTokenizer

TONE = 0.36  # of a code's squared length
_SHARPNESS = 10.0  # the logits of tones are cosines times this


def tied(rows: Tensor, config: VqConfig) -> Tensor:
    """Rows (codes, E) with the mean over all tones for each shape, over all shapes for each tone."""
    grid = rows.unflatten(0, (-1, config.tones))
    shape, tone = _parts(grid, config)
    shape = shape.mean(1, keepdim=True).expand_as(shape)
    return torch.cat([shape, tone.mean(0, keepdim=True).expand_as(tone)], -1).flatten(0, 1)


def even(rows: Tensor, config: VqConfig) -> Tensor:
    """Rows (codes, E) as unit vectors, of which tones have `TONE`: then each part is chosen by itself."""
    shape, tone = _parts(rows, config)
    lengths = (1 - TONE) ** 0.5, TONE**0.5
    return torch.cat([F.normalize(shape, dim=-1) * lengths[0], F.normalize(tone, dim=-1) * lengths[1]], -1)


def tie(tokenizer: VqTokenizer) -> None:
    """Make the codebook a table of shapes and tones that stays one while it learns."""
    config, weight = tokenizer.config, tokenizer.quantize.embedding.weight
    weight.data = even(tied(weight.data, config), config)
    weight.register_hook(lambda gradient: tied(gradient, config))


def factored(rows: Tensor, tones: int) -> Tensor:
    """The nearest rows (codes, ...) that are each the sum of one for the shape and one for the tone."""
    grid = rows.unflatten(0, (-1, tones))
    parts = grid.mean(1, keepdim=True) + grid.mean(0, keepdim=True) - grid.mean((0, 1), keepdim=True)
    return parts.flatten(0, 1)


class Factored:
    """An image head whose every logit is one for a code's shape plus one for its tone, while it learns.

    Shape and tone are then chosen independently, so that a shape that was never right in a tone can be: what
    either is learnt from is all codes that have it.  The optimizer's steps leave such rows a little, because
    it scales each number by itself; `step` after each brings them back.
    """

    def __init__(self, head: nn.Linear, tones: int) -> None:
        self.rows, self.tones = (head.weight, head.bias), tones
        for row in self.rows:
            row.register_hook(lambda gradient: factored(gradient, tones))
        self.step()

    @torch.no_grad()
    def step(self) -> None:
        for row in self.rows:
            row.copy_(factored(row, self.tones))


def give_back(
    tokenizer: VqTokenizer, pixels: Tensor, repainted: Tensor, tones: Tensor
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Pictures (N, 3, S, S) from the shapes of themselves in other colours and their own tones.

    Returns what they become, the losses that hold codes and encoder together, by name, and their codes
    (N, K); `tones` (N, K) are those to be, -1 where any may be.
    """
    config = tokenizer.config
    shape, _ = _parts(tokenizer.latents(repainted), config)
    own_shape, tone = _parts(tokenizer.latents(pixels), config)
    z = torch.cat([shape, tone], -1)
    free = tokenizer.quantize.nearest(z)
    codes = torch.where(tones < 0, free, free // config.tones * config.tones + tones)
    chosen = tokenizer.quantize(codes)
    table = _parts(tokenizer.quantize.rows()[: config.tones], config)[1]
    cosines = F.normalize(tone, dim=-1) @ F.normalize(table, dim=-1).T
    told = tones.masked_fill(tones < 0, -100).flatten()
    naming = F.cross_entropy(_SHARPNESS * cosines.flatten(0, 1), told, reduction="sum") / told.numel()
    losses = {
        "codebook": F.mse_loss(chosen, z.detach()),
        "commitment": F.mse_loss(z, chosen.detach()),
        "tones": naming + F.mse_loss(shape, own_shape),
    }
    return tokenizer.pixels(z + (chosen - z).detach()), losses, codes


def unused(counts: Tensor, config: VqConfig) -> Tensor:
    """From how often each code was chosen, whether its shape never was: both (codes,).

    Without tones every code is a shape of its own.
    """
    grid = counts.unflatten(0, (-1, config.tones))
    return (grid.sum(1, keepdim=True) == 0).expand_as(grid).flatten()


def _parts(rows: Tensor, config: VqConfig) -> tuple[Tensor, Tensor]:
    return rows[..., : -config.tone_dim], rows[..., -config.tone_dim :]
