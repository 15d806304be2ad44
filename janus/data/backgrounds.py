"""What is behind the things: plain colours, and textures made from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import Image

Rgb = tuple[int, int, int]
Pattern = Literal["plain", "gradient", "stripes", "checks", "dots", "noise"]


@dataclass(frozen=True)
class Background:
    """One colour, or two in a pattern whose direction, width and so on follow from the seed."""

    colours: tuple[Rgb, ...]
    pattern: Pattern = "plain"
    seed: int = 0


TIDY_BACKGROUNDS = tuple(
    Background((colour,)) for colour in ((176, 202, 228), (226, 206, 168), (178, 210, 180), (202, 190, 222))
)
SHARES: dict[Pattern, float] = {
    "plain": 0.4,
    "gradient": 0.15,
    "stripes": 0.12,
    "checks": 0.11,
    "dots": 0.1,
    "noise": 0.12,
}


def some_background(rng: np.random.Generator) -> Background:
    """A background for a varied scene; a pattern's two colours are not far apart."""
    pattern = list(SHARES)[rng.choice(len(SHARES), p=list(SHARES.values()))]
    kind = rng.random()
    if pattern == "plain" and kind < 0.3:
        tidy = TIDY_BACKGROUNDS[int(rng.integers(len(TIDY_BACKGROUNDS)))]
        return tidy if kind < 0.2 else Background(((255, 255, 255),))
    light = rng.integers(190, 256) if kind < 0.6 else rng.integers(20, 256)
    first = light + rng.integers(-30, 31, 3)
    if pattern == "plain":
        return Background((_rgb(first),))
    second = first + rng.integers(-25, 26, 3) + int(rng.choice([-1, 1])) * rng.integers(0, 25)
    return Background((_rgb(first), _rgb(second)), pattern, int(rng.integers(2**31)))


def _rgb(values: np.ndarray) -> Rgb:
    red, green, blue = (int(v) for v in values.clip(0, 255))
    return red, green, blue


def paint_background(background: Background, size: int) -> Image.Image:
    """RGB, size × size pixels.  Raises ValueError for an unknown pattern."""
    if background.pattern == "plain":
        return Image.new("RGB", (size, size), background.colours[0])
    mixed = _pattern(background.pattern, size, np.random.default_rng(background.seed))
    steps = np.linspace(background.colours[0], background.colours[-1], 256).astype(np.uint8)
    picture = Image.fromarray((255 * mixed.astype(np.float32)).astype(np.uint8))
    picture.putpalette(steps.tobytes())
    return picture.convert("RGB")


def _pattern(pattern: Pattern, size: int, rng: np.random.Generator) -> np.ndarray:
    """How much of the second colour is where: (size, size), bool or 0 to 1."""
    x, y = _coordinates(size)
    mixed: np.ndarray
    width = size * rng.uniform(0.06, 0.2)
    if pattern in ("gradient", "stripes"):
        angle = rng.uniform(0, 2 * np.pi) if rng.random() < 0.6 else np.pi / 2 * rng.integers(4)
        along = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y
        if pattern == "stripes":
            mixed = (along / np.float32(width)) % 1 < rng.uniform(0.3, 0.7)
        else:
            mixed = (along - along.min()) / np.ptp(along)
    elif pattern == "checks":
        mixed = (x // width + y // width) % 2 == 0
    elif pattern == "dots":
        mixed = np.hypot(x % width - width / 2, y % width - width / 2) < width * rng.uniform(0.2, 0.4)
    elif pattern == "noise":
        cells = int(rng.integers(4, size // 2))
        coarse = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
        mixed = np.asarray(coarse.resize((size, size), Image.Resampling.BILINEAR), np.float32) / 255
    else:
        raise ValueError(f"no pattern {pattern!r}, there are {', '.join(SHARES)}")
    return mixed


@lru_cache(4)
def _coordinates(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Of the pixels' middles: x as (1, size), y as (size, 1), float32."""
    middles = np.arange(size, dtype=np.float32) + 0.5
    return middles[None], middles[:, None]
