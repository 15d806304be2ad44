"""Drawings made ready for a scene: painted, mirrored, turned and scaled to their boxes.

Scenes with free sizes and angles hardly ever ask for the same picture twice, so the way there must be
short: a drawing's painted part and shading are worked out once, in its whole size and in half of it, and
painting is then a look-up in a table of the colour's shades.  Unturned drawings, all of those in tidy
scenes among them, are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np
from PIL import Image

from janus.data.art import Sprite
from janus.data.layouts import Shape
from janus.data.paint import painted_part, shades, shading, things_table

SEEN = 16  # alpha, from which a pixel counts as drawn on
KEPT = 4096  # fitted drawings, about 30 MB
_STEPS = np.linspace(-0.75, 0.75, 255)  # of lightness, the rows of a colour's table


class Drawings:
    """The sprites by index.  Copies, also those that go to other processes, start without kept pictures."""

    def __init__(self, sprites: Sequence[Sprite]) -> None:
        self.sprites = list(sprites)
        self.fit = lru_cache(KEPT)(self.turned)
        self.shape = cache(self._shape)
        self.colours = lru_cache(2 * KEPT)(self._colours)
        self._pixels = cache(self._pixels_in)
        self._painted = cache(self._painted_in)

    def __reduce__(self) -> tuple[type[Drawings], tuple[list[Sprite]]]:
        return Drawings, (self.sprites,)

    def turned(
        self,
        sprite: int,
        colour: str | None,
        size: tuple[int, int],
        mirrored: bool = False,
        angle: float = 0.0,
    ) -> Image.Image:
        """RGBA, of the size (width, height), turned counter-clockwise by `angle` degrees after mirroring.

        `fit` does the same and keeps the picture for the next time.
        """
        half = max(size) <= max(self.sprites[sprite].pixels.shape) // 2
        picture = Image.fromarray(self.painted(sprite, colour, half))
        if mirrored:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if angle:
            picture = picture.rotate(angle, Image.Resampling.BILINEAR, expand=True)
            picture = picture.crop(_seen(picture.getchannel("A")))
        return picture.resize(size, Image.Resampling.LANCZOS)

    def _shape(self, sprite: int, angle: float = 0.0, mirrored: bool = False) -> Shape:
        """What a drawing's tight box looks like."""
        if mirrored:  # mirrored and then turned is turned the other way and then mirrored
            return self.shape(sprite, -angle % 360)
        alpha = Image.fromarray(np.ascontiguousarray(self.sprites[sprite].pixels[..., 3]))
        if angle:
            alpha = alpha.rotate(angle, Image.Resampling.BILINEAR, expand=True)
            alpha = alpha.crop(_seen(alpha))
        return Shape(alpha.width, alpha.height, float((np.asarray(alpha) > 127).mean()))

    def _colours(self, sprite: int, colour: str | None) -> np.ndarray:
        """A sample of a drawing's pixels, (n, 3) int16, n at most 100."""
        pixels = self.painted(sprite, colour, half=True)
        step = max(1, max(pixels.shape) // 10)
        sample = pixels[step // 2 :: step, step // 2 :: step].reshape(-1, 4)
        solid = sample[sample[:, 3] > 127, :3].astype(np.int16)
        return solid if len(solid) else pixels[pixels[..., 3] > 127][:100, :3].astype(np.int16)

    def painted(self, sprite: int, colour: str | None, half: bool) -> np.ndarray:
        """`janus.data.paint.recolour`, but for rounding: (h, w, 4) uint8."""
        pixels = self._pixels(sprite, half)
        if colour is None:
            return pixels
        part, shade = self._painted(sprite, half)
        rgb = pixels[..., :3].astype(np.float32)
        rgb += (_shades(colour)[shade] - rgb) * (part[..., None] / np.float32(255))
        return np.dstack([(rgb + 0.5).astype(np.uint8), pixels[..., 3]])

    def _pixels_in(self, sprite: int, half: bool) -> np.ndarray:
        pixels = self.sprites[sprite].pixels
        return _halved(pixels) if half else pixels

    def _painted_in(self, sprite: int, half: bool) -> tuple[np.ndarray, np.ndarray]:
        """How much each pixel is painted, and which row of a colour's table it takes: (h, w) uint8 both."""
        if half:
            part, shade = self._painted(sprite, False)
            return _halved(part), _halved(shade)
        pixels, name = self.sprites[sprite].pixels, self.sprites[sprite].name
        part = painted_part(pixels, tuple(things_table()["classes"][name].get("paint", ())))
        between = (_STEPS[1:] + _STEPS[:-1]) / 2
        shade = np.searchsorted(between, shading(pixels, part)).astype(np.uint8)
        return (255 * part).round().astype(np.uint8), shade


@cache
def _shades(colour: str) -> np.ndarray:
    """What becomes of a colour's `_STEPS`: (255, 3) float32."""
    return shades(colour, _STEPS).astype(np.float32)


def _halved(pixels: np.ndarray) -> np.ndarray:
    height, width = (max(1, side // 2) for side in pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX))


def _seen(alpha: Image.Image) -> tuple[int, int, int, int]:
    """The tight box of what is drawn on."""
    drawn = np.asarray(alpha) >= SEEN
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
