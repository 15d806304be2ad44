"""What is behind the things of scenes that are drawn in batches: `janus.data.backgrounds` in PyTorch.

Shapes: N pictures, S their side.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from janus.data.backgrounds import SHARES
from janus.data.lots import Lots

PATTERNS = tuple(SHARES)


def backgrounds(lots: Lots, tidy: Tensor, *shape: int) -> tuple[Tensor, Tensor]:
    """Patterns (...) and both colours (..., 2, 3) of new backgrounds, as `some_background` draws them."""
    patterns = lots.weighted(tuple(SHARES.values()), *shape)
    plain = patterns == PATTERNS.index("plain")
    way = lots.unit(*shape)
    light = torch.where(way < 0.6, 190 + lots.below(66, *shape), 20 + lots.below(236, *shape))
    first = light[..., None] + lots.below(61, *shape, 3) - 30
    away = (2 * lots.below(2, *shape) - 1) * lots.below(25, *shape)
    second = first + lots.below(51, *shape, 3) - 25 + away[..., None]
    second = torch.where(plain[..., None], first, second)
    colours = torch.stack([first, second], -2).clamp(0, 255).float()
    white = torch.full_like(tidy[0], 255)
    one = torch.where((way < 0.2)[..., None], tidy[lots.below(len(tidy), *shape)], white)
    return patterns, torch.where((plain & (way < 0.3))[..., None, None], one[..., None, :], colours)


def mixed(patterns: Tensor, size: int, lots: Lots) -> Tensor:
    """How much of the second colour is where, (N, S, S), from 0 to 1, as `paint_background` has it."""
    count, device = len(patterns), patterns.device
    middles = torch.arange(size, device=device) + 0.5
    x, y = middles[None, None], middles[None, :, None]
    width = size * lots.between(0.06, 0.2, count, 1, 1)
    share = lots.unit(count, 1, 1)
    angle = lots.between(0, 2 * math.pi, count, 1, 1)
    straight = math.pi / 2 * lots.below(4, count, 1, 1)
    angle = torch.where(lots.unit(count, 1, 1) < 0.6, angle, straight)
    along = angle.cos() * x + angle.sin() * y
    low, high = along.amin((1, 2), keepdim=True), along.amax((1, 2), keepdim=True)
    radius = width * (0.2 + 0.2 * share)
    cells = 4 + lots.below(size // 2 - 4, count, 1, 1)
    coarse = (256 * lots.unit(count, 1, size // 2, size // 2)).floor() / 255
    place = ((middles / size * cells - 0.5).clamp(min=0).minimum(cells - 1.0) + 0.5) / (size // 2) * 2 - 1
    grid = torch.stack(torch.broadcast_tensors(place, place.transpose(1, 2)), -1)
    kinds = {
        "plain": torch.zeros_like(along),
        "gradient": (along - low) / (high - low),
        "stripes": (along / width) % 1 < 0.3 + 0.4 * share,
        "checks": (x // width + y // width) % 2 == 0,
        "dots": torch.hypot(x % width - width / 2, y % width - width / 2) < radius,
        "noise": F.grid_sample(coarse, grid, align_corners=False)[:, 0],
    }
    assert tuple(kinds) == PATTERNS
    share_of_second = kinds["plain"]
    for number, made in enumerate(kinds.values()):
        here = (patterns == number)[:, None, None]
        share_of_second = torch.where(here, made.float(), share_of_second)
    return share_of_second
