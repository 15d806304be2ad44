"""Where things stand: GenEval's rule of positions, the grid of what is drawn, and free arrangements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Relation = Literal["left of", "right of", "above", "below"]
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, right and bottom exclusive
Place = tuple[int, int, int]  # column, row, and cells along a side, of a block on the grid

RELATIONS: tuple[Relation, ...] = ("left of", "right of", "above", "below")
CELLS = 8  # along a side: things to draw stand on this grid, that of the image tokenizer's codes
BORDER = 2  # pixels that a thing to draw keeps from the edges of its block
QUADRANTS = ((0, 0), (4, 0), (0, 4), (4, 4))
# The longer side of each thing, as shares of the picture's, where one thing is shown, two, ... six.
SIZES = ((0.45, 0.95), (0.34, 0.62), (0.30, 0.52), (0.28, 0.45), (0.26, 0.40), (0.24, 0.36))
COVERED = 0.15  # of a thing may be hidden behind others
TRIES = 24  # places for each thing


@dataclass(frozen=True)
class Shape:
    """A drawing without its colours: its size in pixels, and which share of that rectangle is drawn on."""

    width: int
    height: int
    solid: float


def relations(a: Sequence[float], b: Sequence[float]) -> tuple[Relation, ...]:
    """Where box `a` is, seen from box `b`, by GenEval's rule: none, one, or two for diagonals.

    The rule (`relative_position` of GenEval's `evaluate_images.py`, margin 0.1): the offset of the centres
    is shortened along each axis by 0.1 of the two boxes' summed sizes along it, to 0 at least, then divided
    by the length of the full offset.  Beyond 0.5 along an axis there is a relation.
    """
    offset = [(a[i] + a[i + 2] - b[i] - b[i + 2]) / 2 for i in (0, 1)]
    sizes = [a[i + 2] - a[i] + b[i + 2] - b[i] for i in (0, 1)]
    short = [math.copysign(max(abs(o) - 0.1 * s, 0), o) for o, s in zip(offset, sizes, strict=True)]
    if all(abs(value) < 1e-3 for value in short):
        return ()
    x, y = (value / math.hypot(*offset) for value in short)
    holds = (x < -0.5, x > 0.5, y < -0.5, y > 0.5)
    return tuple(relation for relation, true in zip(RELATIONS, holds, strict=True) if true)


def relation(a: Sequence[float], b: Sequence[float]) -> Relation | None:
    """The one relation that `relations` finds; None where it finds none or, on a diagonal, two."""
    found = relations(a, b)
    return found[0] if len(found) == 1 else None


def tidy_places(count: int, rng: np.random.Generator, between: Relation | None = None) -> list[Place]:
    """Blocks for 1 to 4 things to draw.

    All have four cells along a side, so that a thing is drawn with the same codes wherever it is and whatever
    is beside it.  One stands in the middle, two beside or above one another, as `between` says, or in any of
    the four relations; four stand in the picture's quarters, of which three leave the last one free.
    """
    if count == 1:
        return [(2, 2, 4)]
    if count == 2:
        between = between or RELATIONS[int(rng.integers(4))]
        places = [(0, 2), (4, 2)]
        if between in ("right of", "below"):
            places.reverse()
        return [(y, x, 4) if between in ("above", "below") else (x, y, 4) for x, y in places]
    return [(*corner, 4) for corner in QUADRANTS[:count]]


def in_place(shape: Shape, place: Place, size: int) -> Box:
    """The box of a drawing in the middle of its block, as large as the block's borders let it be."""
    cell = size // CELLS
    x, y, edge = place
    scale = (edge * cell - 2 * BORDER) / max(shape.width, shape.height)
    width, height = max(1, round(shape.width * scale)), max(1, round(shape.height * scale))
    left = x * cell + (edge * cell - width) // 2
    top = y * cell + (edge * cell - height) // 2
    return (left, top, left + width, top + height)


def place_of(box: Box, size: int) -> Place:
    """The block that a thing to draw was put into.  Raises ValueError for a box that fits none."""
    cell = size // CELLS
    width, height = box[2] - box[0], box[3] - box[1]
    edge = round((max(width, height) + 2 * BORDER) / cell)
    x, y = (round((box[i] + box[i + 2]) / 2 / cell - edge / 2) for i in (0, 1))
    shape = Shape(width, height, 1.0)
    if not (0 <= x <= CELLS - edge and 0 <= y <= CELLS - edge) or in_place(shape, (x, y, edge), size) != box:
        raise ValueError(f"the box {box} stands on no block of {CELLS} × {CELLS} cells; is the scene tidy?")
    return x, y, edge


def scatter(shapes: Sequence[Shape], size: int, rng: np.random.Generator) -> list[Box] | None:
    """Boxes for things painted in this order, at random sizes and places; None where they did not fit.

    At most `COVERED` of what is drawn of each thing lies in the boxes of those painted after it, so
    less than that is hidden.
    """
    low, high = SIZES[len(shapes) - 1]
    boxes = np.zeros((len(shapes), 4), np.int64)
    spare = np.zeros(len(shapes))  # of each thing's area, how much may still be covered
    for i, shape in enumerate(shapes):
        edge = 2 * round(size * rng.uniform(low, high) / 2)
        scale = edge / max(shape.width, shape.height)
        width, height = max(1, round(shape.width * scale)), max(1, round(shape.height * scale))
        corners = rng.integers(0, (size - width + 1, size - height + 1), (TRIES, 2))
        tried = np.concatenate([corners, corners + np.array([width, height])], axis=1)
        inner = np.minimum(tried[:, None, 2:], boxes[:i, 2:]) - np.maximum(tried[:, None, :2], boxes[:i, :2])
        covered = inner.clip(0).prod(axis=-1)  # (tries, things so far)
        fits = np.flatnonzero((covered <= spare[:i]).all(axis=1))
        if not fits.size:
            return None
        boxes[i] = tried[fits[0]]
        spare[:i] -= covered[fits[0]]
        spare[i] = COVERED * shape.solid * width * height
    return [(left, top, right, bottom) for left, top, right, bottom in boxes.tolist()]
