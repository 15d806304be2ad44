"""What is done to rendered pictures so that a detector copes with drawn ones, and is strict about them.

`damaged` is what an image tokenizer and a hasty hand do to a picture: blur, blocks, noise, colours a little
off.  `spoiled` leaves of a thing what should not pass for it any more: half of it, its parts in the wrong
places, a smear of its colours.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, right and bottom exclusive
_BLOCK = 8  # pixels: the cells that image tokenizers work in


def damaged(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture (S, S, 3) uint8 with some of the damages, in random strengths; colours keep their names."""
    if rng.random() < 0.5:
        picture = _coarse(picture, rng.uniform(0.4, 0.8))
    elif rng.random() < 0.6:
        blur = ImageFilter.GaussianBlur(rng.uniform(0.3, 1.3))
        picture = np.asarray(Image.fromarray(picture).filter(blur))
    if rng.random() < 0.3:
        picture = _shifted_blocks(picture, rng)
    if rng.random() < 0.5:
        stored = io.BytesIO()
        Image.fromarray(picture).save(stored, "JPEG", quality=int(rng.integers(12, 70)))
        picture = np.asarray(Image.open(stored))
    values = picture.astype(np.float32)
    if rng.random() < 0.5:  # lightness, contrast, a tint
        middle = values.mean((0, 1))
        tint = rng.uniform(-8, 8, 3) + rng.uniform(-8, 8)
        values = (values - middle) * np.float32(rng.uniform(0.88, 1.1)) + middle + tint.astype(np.float32)
    if rng.random() < 0.3:
        values = values + _by_block(rng.normal(0, 4, (*_blocks(picture), 3)).astype(np.float32), picture)
    if rng.random() < 0.4:
        values = values + rng.normal(0, rng.uniform(1, 9), values.shape).astype(np.float32)
    return values.round().clip(0, 255).astype(np.uint8)


def spoiled(picture: np.ndarray, box: Box, rng: np.random.Generator) -> np.ndarray:
    """The picture (S, S, 3) uint8 with the thing in the box turned into something that is none."""
    left, top, right, bottom = box
    made = picture.copy()
    part = picture[top:bottom, left:right]
    kind = rng.random()
    if kind < 0.45:
        made[top:bottom, left:right] = _half(picture, box, rng)
    elif kind < 0.7:
        made[top:bottom, left:right] = _shuffled(part, rng)
    else:
        made[top:bottom, left:right] = _smeared(part, rng)
    return made


def blotched(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture (S, S, 3) uint8 with one to three blotches of some colour and no certain shape."""
    made = picture.copy()
    for _ in range(int(rng.integers(1, 4))):
        side = int(rng.integers(len(picture) // 5, len(picture) * 2 // 3))
        left, top = (int(rng.integers(0, len(picture) - side + 1)) for _ in range(2))
        rough = _grown(rng.uniform(0, 1, (5, 5)), side)
        away = np.hypot(*np.meshgrid(*[np.linspace(-1, 1, side)] * 2))
        shape = (rough - 0.55 * away > rng.uniform(-0.1, 0.2))[..., None]
        shade = np.array([_grown(rng.uniform(-25, 25, (3, 3)), side) for _ in range(3)]).transpose(1, 2, 0)
        ink = (rng.uniform(20, 240, 3) + shade).clip(0, 255).astype(np.uint8)
        part = made[top : top + side, left : left + side]
        made[top : top + side, left : left + side] = np.where(shape, ink, part)
    return made


def _half(picture: np.ndarray, box: Box, rng: np.random.Generator) -> np.ndarray:
    """What is in the box, with half of it or a little more covered in the colour around it."""
    left, top, right, bottom = box
    part = picture[top:bottom, left:right].copy()
    wide = picture[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1]
    ring = np.concatenate([wide[0], wide[-1], wide[:, 0], wide[:, -1]])
    height, width = part.shape[:2]
    share = rng.uniform(0.5, 0.7)
    rows, columns = max(1, round(share * height)), max(1, round(share * width))
    sides: list[Callable[[], tuple[slice, slice]]] = [
        lambda: (slice(0, rows), slice(None)),
        lambda: (slice(height - rows, None), slice(None)),
        lambda: (slice(None), slice(0, columns)),
        lambda: (slice(None), slice(width - columns, None)),
    ]
    part[sides[int(rng.integers(4))]()] = np.median(ring, axis=0)
    return part


def _shuffled(part: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut into two by two or three by three pieces, none of which stays where it was."""
    count = int(rng.integers(2, 4))
    height, width = (side // count for side in part.shape[:2])
    if not height or not width:
        return _smeared(part, rng)
    made = part.copy()
    places = [(i * height, j * width) for i in range(count) for j in range(count)]
    order = rng.permutation(len(places))
    moved = dict(zip(order, np.roll(order, 1), strict=True))  # one round through all places
    for here, there in moved.items():
        (i, j), (k, l) = places[here], places[there]
        made[i : i + height, j : j + width] = part[k : k + height, l : l + width]
    return made


def _smeared(part: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As if seen through three or four panes."""
    height, width = part.shape[:2]
    panes = int(rng.integers(2, 5))
    small = Image.fromarray(part).resize((min(panes, width), min(panes, height)), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def _coarse(picture: np.ndarray, share: float) -> np.ndarray:
    """Through fewer pixels and back."""
    side = len(picture)
    less = max(4, round(share * side))
    small = Image.fromarray(picture).resize((less, less), Image.Resampling.BILINEAR)
    return np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))


def _shifted_blocks(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Some blocks show what is a pixel beside them."""
    side = len(picture)
    down, across = (
        np.where(rng.random(_blocks(picture)) < 0.25, rng.integers(-1, 2, _blocks(picture)), 0)
        for _ in range(2)
    )
    rows, columns = np.indices((side, side))
    rows = (rows + _by_block(down, picture)).clip(0, side - 1)
    columns = (columns + _by_block(across, picture)).clip(0, side - 1)
    return picture[rows, columns]


def _blocks(picture: np.ndarray) -> tuple[int, int]:
    height, width = picture.shape[:2]
    return -(-height // _BLOCK), -(-width // _BLOCK)


def _by_block(values: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """One value for each block to one for each pixel."""
    height, width = picture.shape[:2]
    return values.repeat(_BLOCK, 0).repeat(_BLOCK, 1)[:height, :width]


def _grown(values: np.ndarray, side: int) -> np.ndarray:
    small = Image.fromarray(values.astype(np.float32))
    return np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))
