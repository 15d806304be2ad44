"""Pictures in styles that no drawing has, so that what is learnt from them sees through styles.

Shapes: N pictures, S their side.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from janus.data.lots import Lots, constant

_KERNELS = (1, 3, 5)  # pixels, of the convolutions
_BENDS = 6  # on each side, the places that are moved; between them it is smooth
_BEND = 0.045  # times the side: the widest that the moves may spread, one standard deviation


def restyled(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures (N, 3, S, S), from 0 to 255, in styles of their own: shapes stay, colours and textures don't.

    Each goes through a random convolution, gets its mean and contrast back, and is mixed with itself as it
    was (RandConv, Xu et al., 2021, https://arxiv.org/abs/2007.13003).
    """
    lots, count, widest = Lots(generator), len(pixels), max(_KERNELS)
    sides = constant(_KERNELS, lots.device)[lots.below(len(_KERNELS), count)]
    weights = (
        torch.randn(count, 3, 3, widest, widest, generator=generator, device=lots.device)
        / (3 * sides.float()[:, None, None, None, None] ** 2).sqrt()
    )
    away = (torch.arange(widest, device=lots.device) - widest // 2).abs()
    inside = torch.maximum(away[:, None], away) <= sides[:, None, None] // 2
    weights = (weights * inside[:, None, None]).flatten(0, 1)
    padded = F.pad(pixels, (widest // 2,) * 4, "reflect").flatten(0, 1)[None]
    other = F.conv2d(padded, weights, groups=count).view_as(pixels)
    whole = (1, 2, 3)
    other = (other - other.mean(whole, keepdim=True)) / other.std(whole, keepdim=True).clamp(min=1e-3)
    other = other * pixels.std(whole, keepdim=True) + pixels.mean(whole, keepdim=True)
    share = lots.unit(count, 1, 1, 1)
    return (share * pixels + (1 - share) * other).clamp(0, 255)


def warped(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures (N, 3, S, S) bent at random, each more or less: outlines change, colours and places stay.

    Elastic distortion (Simard et al., 2003), with a coarse grid of moves instead of blurred noise.
    """
    count, side, device = len(pixels), pixels.shape[-1], generator.device
    lots = Lots(generator)
    moves = torch.randn(count, 2, _BENDS, _BENDS, generator=generator, device=device)
    moves = 2 * _BEND * lots.unit(count, 1, 1, 1) * moves  # of a picture from -1 to 1
    smooth = F.interpolate(moves, size=(side, side), mode="bicubic", align_corners=True)
    straight = torch.eye(2, 3, device=device).expand(count, -1, -1)
    grid = F.affine_grid(straight, [count, 1, side, side], align_corners=False)
    grid = grid + smooth.permute(0, 2, 3, 1)
    return F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
