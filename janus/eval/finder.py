"""The scene judge's network: where in a picture is something, how large is it, and what.

It looks at a picture once, without anchors, as CenterNet (arXiv 1904.07850) and FCOS (arXiv 1904.01355) do:
a residual network (arXiv 1512.03385) reads it down to an eighth of the cells, a light path back up (feature
pyramids, arXiv 1612.03144) brings what it knows to cells of 4 × 4 pixels, and each cell says whether a
thing's middle is in it, where exactly and how large the thing is, and which class it has.  Unlike there,
the middle of a thing is found whatever its class, and one class is chosen for it: a cell never holds two.

Shapes: N pictures, S their side in pixels, G = S / 4 cells along a side, C classes, K things.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CELL = 4  # pixels
MOST = 64  # things looked at in one picture, the most certain ones
SHARED = 0.6  # boxes that overlap by more (IoU) are of one thing, whatever their classes


@dataclass(frozen=True)
class FinderConfig:
    """Sizes of the network."""

    classes: int = 80
    size: int = 96  # pixels of a picture's side
    widths: tuple[int, ...] = (24, 64, 96, 192)  # channels at a half, a quarter, an eighth, a sixteenth
    blocks: tuple[int, ...] = (1, 2, 2)  # residual blocks at the last three of them
    top: int = 80  # channels on the way back up

    def __post_init__(self) -> None:
        if len(self.widths) != 4 or len(self.blocks) != 3 or min(*self.widths, *self.blocks, self.top) < 1:
            raise ValueError(
                "a finder has four widths and three numbers of blocks, all at least 1; not "
                f"{list(self.widths)}, {list(self.blocks)} and top {self.top}"
            )
        if self.size < 16 or self.size % 16:
            raise ValueError(f"size must be a multiple of 16 pixels, not {self.size}")
        if self.classes < 2:
            raise ValueError(
                f"a finder tells classes apart, so there must be two at least, not {self.classes}"
            )


@dataclass(frozen=True)
class Maps:
    """What each cell says."""

    middle: Tensor  # (N, G, G): a logit, whether a thing's middle is here
    kind: Tensor  # (N, C, G, G): logits of the classes
    place: Tensor  # (N, 2, G, G): from the cell's middle to the thing's, across and down, in cells
    extent: Tensor  # (N, 2, G, G): logarithms of width and height in cells


@dataclass(frozen=True)
class Things:
    """What was found in one picture, the most certain first."""

    scores: Tensor  # (K,): probability that there is a thing, times that of its class
    kinds: Tensor  # (K,) int64
    boxes: Tensor  # (K, 4): left, top, right, bottom in pixels of the network's size


class _Block(nn.Module):
    """Two convolutions beside a way straight through."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(before, width, 3, stride)
        self.second = _convolution(width, width, 3, 1)
        same = before == width and stride == 1
        self.past = nn.Identity() if same else _convolution(before, width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = F.relu(self.second(F.relu(self.first(x))) + self.past(x))
        return out


class Finder(nn.Module):
    """Pixels to maps."""

    def __init__(self, config: FinderConfig) -> None:
        super().__init__()
        self.config = config
        half, *widths = config.widths
        self.stem = nn.Sequential(
            _convolution(3, half, 3, 2), nn.ReLU(), _convolution(half, widths[0], 3, 2), nn.ReLU()
        )
        stages, before = [], widths[0]
        for number, (width, blocks) in enumerate(zip(widths, config.blocks, strict=True)):
            inputs, strides = [before] + [width] * (blocks - 1), [1 + (number > 0)] + [1] * (blocks - 1)
            parts = [_Block(i, width, stride) for i, stride in zip(inputs, strides, strict=True)]
            stages.append(nn.Sequential(*parts))
            before = width
        self.stages = nn.ModuleList(stages)
        self.across = nn.ModuleList(nn.Conv2d(width, config.top, 1) for width in widths)
        self.head = nn.Sequential(
            _convolution(config.top, config.top, 3, 1),
            nn.ReLU(),
            _convolution(config.top, config.top, 3, 1),
            nn.ReLU(),
        )
        self.out = nn.Conv2d(config.top, 5 + config.classes, 1)
        assert self.out.bias is not None
        with torch.no_grad():
            self.out.bias[0] = -4.0  # hardly any cell is a middle (section 4.1 of arXiv 1708.02002)

    def forward(self, pixels: Tensor) -> Maps:
        """pixels: (N, 3, S, S) in [-1, 1]."""
        x, levels = self.stem(pixels), []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        paths = [across(level) for across, level in zip(self.across, levels, strict=True)]
        joined = paths.pop()
        while paths:
            joined = F.interpolate(joined, scale_factor=2.0, mode="nearest") + paths.pop()
        out = self.out(self.head(joined))
        return Maps(out[:, 0], out[:, 5:], out[:, 1:3], out[:, 3:5])


def _convolution(before: int, width: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, width, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(width)
    )


def things_in(maps: Maps, least: float) -> list[Things]:
    """What the maps say is in each picture, with a score of at least `least`.

    A thing's middle is a cell that no neighbour exceeds.  Of boxes that share more than `SHARED` only the
    most certain stays.
    """
    middle = maps.middle.float().sigmoid()
    peak = middle == F.max_pool2d(middle[:, None], 3, 1, 1)[:, 0]
    chance, kind = maps.kind.float().softmax(1).max(1)  # (N, G, G) both
    scores = middle * chance * peak
    boxes = boxes_of(maps)
    found = []
    for number in range(len(scores)):
        best = scores[number].flatten().sort(descending=True, stable=True)
        order = best.indices[:MOST][best.values[:MOST] >= least]
        own = boxes[number].flatten(1).T[order]
        keep = _apart(own)
        order = order[keep]
        found.append(Things(scores[number].flatten()[order], kind[number].flatten()[order], own[keep]))
    return found


def boxes_of(maps: Maps) -> Tensor:
    """The box that each cell speaks of, (N, 4, G, G): left, top, right, bottom in pixels."""
    grid = maps.middle.shape[-1]
    along = torch.arange(grid, device=maps.middle.device) + 0.5
    cells = torch.stack(torch.meshgrid(along, along, indexing="xy"))  # (2, G, G): across, down
    middles = cells + maps.place.float()
    half = maps.extent.float().clamp(max=8).exp() / 2
    return CELL * torch.cat([middles - half, middles + half], 1)


def shared(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of all pairs of boxes: (A, 4) and (B, 4) to (A, B)."""
    inner = torch.minimum(boxes[:, None, 2:], others[:, 2:]) - torch.maximum(
        boxes[:, None, :2], others[:, :2]
    )
    common = inner.clamp(min=0).prod(-1)
    areas = [(b[:, 2:] - b[:, :2]).clamp(min=0).prod(-1) for b in (boxes, others)]
    return common / (areas[0][:, None] + areas[1] - common).clamp(min=1e-6)


def _apart(boxes: Tensor) -> Tensor:
    """Which of boxes (K, 4), the most certain first, stay: (K,) bool."""
    overlaps = shared(boxes, boxes) > SHARED
    keep = torch.ones(len(boxes), dtype=torch.bool)
    for i in range(len(boxes)):
        if keep[i]:
            keep[i + 1 :] &= ~overlaps[i, i + 1 :]
    return keep
