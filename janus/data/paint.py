"""Painting drawings, and saying which of GenEval's ten colours a thing has.

Colours are compared in OKLab (Björn Ottosson, https://bottosson.github.io/posts/oklab/, 2020): lightness L
from 0 to 1, and two axes a and b whose distance from grey is the chroma.  Equal steps there look about
equally large, so painting can change hue and keep shading, and "nearest colour" means what a person sees.
"""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import resources
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Paint = float | Literal["grey", "all"]  # which parts of a drawing carry its colour, see `painted_part`
Holes = Literal["light", "dark", "open", "own"]

ENOUGH = 0.62  # of a drawing that a colour must cover to be the colour of the thing
_RIM = 0.3  # of lightness, that the outline of what is painted is darker
_SPREAD = {"white": (0.26, 0.025), "black": (0.1, 0.15), "brown": (0.1, 0.07), "yellow": (0.08, 0.08)}
_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


@lru_cache
def things_table() -> dict[str, Any]:
    """The parsed `things.json`: colours and classes, what is drawn of each, and in which style nothing is."""
    return json.loads(resources.files("janus.data").joinpath("things.json").read_text(encoding="utf-8"))


def oklab(rgb: np.ndarray) -> np.ndarray:
    """sRGB values from 0 to 255, (..., 3), in OKLab, (..., 3) float64."""
    value = np.asarray(rgb, np.float64) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ _LMS.T) @ _LAB.T


def from_oklab(lab: np.ndarray) -> np.ndarray:
    """OKLab, (..., 3), as sRGB, (..., 3) uint8; what no screen can show is clipped."""
    linear = ((lab @ np.linalg.inv(_LAB).T) ** 3 @ np.linalg.inv(_LMS).T).clip(0, 1)
    value = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (255 * value).round().astype(np.uint8)


@lru_cache
def _references() -> tuple[list[str], np.ndarray]:
    colours = things_table()["colours"]
    return list(colours), oklab(np.array([entry["rgb"] for entry in colours.values()]))


def dominant_colour(pixels_rgb: np.ndarray, mask: np.ndarray) -> str:
    """Which of the ten colours most of a thing's pixels have.

    `pixels_rgb` is (h, w, 3), 0 to 255; `mask` (h, w) is true, or positive as a weight, where the thing is.
    The rule: every pixel votes for the nearest of the ten colours of `things.json` in OKLab, with half the
    weight on differences of lightness, since light and shadow change that most.  A pixel without colour
    (chroma below 0.04) votes for white from lightness 0.7 up, for black up to 0.45, and not at all between.
    The colour with most votes wins; if nobody voted, the mean lightness decides between black and white.
    Raises ValueError if shapes disagree or the mask is empty.
    """
    if pixels_rgb.shape != (*mask.shape, 3):
        raise ValueError(
            f"mask {mask.shape} does not fit pixels {pixels_rgb.shape}, wanted (h, w) and (h, w, 3)"
        )
    inside = mask > 0
    if not inside.any():
        raise ValueError("the mask is empty: no pixel to judge a colour by")
    lab, weight = oklab(pixels_rgb[inside]), mask[inside].astype(np.float64)
    names, references = _references()
    apart = (lab[:, None] - references) * (0.5, 1, 1)
    vote = np.square(apart).sum(-1).argmin(-1)
    light, grey = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2]) < 0.04
    vote[grey & (light >= 0.7)] = names.index("white")
    vote[grey & (light <= 0.45)] = names.index("black")
    weight[grey & (light > 0.45) & (light < 0.7)] = 0
    votes = np.bincount(vote, weight, len(names))
    if not votes.any():
        return "white" if light.mean() >= 0.575 else "black"
    return names[int(votes.argmax())]


def recolour(pixels: np.ndarray, colour: str, paint: tuple[Paint, ...] = ()) -> np.ndarray:
    """The drawing, (h, w, 4) uint8, painted in one of the ten colours: shading stays, so do small details.

    What is painted is `painted_part`.  Its middle lightness becomes that of the colour; lighter and darker
    spots keep their order, in a range narrow enough that all of it still has the colour's name.
    Raises ValueError for a colour that is none of the ten.
    """
    rgb = pixels[..., :3].astype(np.float64)
    mask = painted_part(pixels, paint)
    mixed = rgb + (shades(colour, shading(pixels, mask)) - rgb) * mask[..., None]
    return np.dstack([mixed.round().astype(np.uint8), pixels[..., 3]])


def shading(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """How much lighter each pixel of a drawing (h, w, 4) is than the middle of its painted part: (h, w).

    Along the drawing's outline it is darker, so that what is painted white or yellow stands out on a light
    background.
    """
    lightness = oklab(pixels[..., :3])[..., 0]
    inside = mask * (pixels[..., 3] > 128) > 0.5
    edge = max(1, max(mask.shape) // 48)
    ground = Image.fromarray(np.pad(pixels[..., 3], edge))
    inner = np.asarray(ground.filter(ImageFilter.MinFilter(2 * edge + 1)))[edge:-edge, edge:-edge]
    return lightness - (np.median(lightness[inside]) if inside.any() else 0.5) - _RIM * (1 - inner / 255)


def shades(colour: str, shade: np.ndarray) -> np.ndarray:
    """What a colour looks like where it is so much lighter, or darker, than itself: (...) to (..., 3) uint8.

    Raises ValueError for a colour that is none of the ten.
    """
    names, references = _references()
    if colour not in names:
        raise ValueError(f"no colour {colour!r}, there are {', '.join(names)}")
    target = references[names.index(colour)]
    darker, lighter = _SPREAD.get(colour, (0.13, 0.1))
    shade = np.where(
        shade < 0, darker * np.tanh(0.7 * shade / darker), lighter * np.tanh(0.7 * shade / lighter)
    )
    rich = np.where(shade < 0, 1 + shade / target[0], 1 - shade / (1 - target[0]) / 2)
    return from_oklab(np.concatenate([target[:1] + shade[..., None], target[1:] * rich[..., None]], -1))


def painted_part(pixels: np.ndarray, paint: tuple[Paint, ...] = ()) -> np.ndarray:
    """How much each pixel of a drawing (h, w, 4) belongs to what carries its colour: (h, w), 0 to 1.

    `paint` may name the parts: hues in degrees (OKLab's: red 29, yellow 100, green 142, blue 260), "grey"
    for all that has no hue, "all" for everything.  Otherwise it is the hue that covers most, or the
    light or dark grey parts where no hue covers a quarter; and further parts, the largest first, until
    `ENOUGH` of the drawing is covered.
    """
    lab = oklab(pixels[..., :3])
    solid = pixels[..., 3] / 255
    chroma, hue = np.hypot(lab[..., 1], lab[..., 2]), np.degrees(np.arctan2(lab[..., 2], lab[..., 1])) % 360
    coloured = np.clip((chroma - 0.035) / 0.03, 0, 1)
    light = np.clip((lab[..., 0] - 0.4) / 0.1, 0, 1)

    def of_hue(centre: float) -> np.ndarray:
        return coloured * np.clip((60 - np.abs((hue - centre + 180) % 360 - 180)) / 15, 0, 1)

    if paint:
        named = {"all": np.ones_like(solid), "grey": 1 - coloured}
        return np.sum([named[p] if isinstance(p, str) else of_hue(p) for p in paint], axis=0).clip(0, 1)
    parts = [(1 - coloured) * light, (1 - coloured) * (1 - light)]
    left = coloured * solid
    for _ in range(3):
        votes, _ = np.histogram(hue, 36, (0, 360), weights=left)
        smooth = np.sum([np.roll(votes, k) for k in (-2, -1, 0, 1, 2)], axis=0)
        parts.append(of_hue(10.0 * int(np.argmax(smooth)) + 5))
        left = left * (1 - parts[-1])
    area = [float((part * solid).sum() / solid.sum()) for part in parts]
    first = 2 if area[2] >= 0.25 else int(np.argmax(area[:2]))
    mask, order = parts[first], np.argsort(area)[::-1]
    for i in order:
        if (solid * (mask > 0.5)).sum() >= ENOUGH * solid.sum():
            break
        mask = (mask + parts[i] * (i != first)).clip(0, 1)
    return (mask / 0.55).clip(0, 1)  # what is mostly painted is painted whole, or dull colours turn muddy


def colour_icon(icon: Image.Image, own: tuple[int, int, int], holes: Holes = "light") -> Image.Image:
    """A one-colour icon, RGBA, as a little drawing: in a colour of its own, with a dark rim.

    `holes` says what becomes of gaps closed in by the icon: "light" or "dark" shades of the colour,
    "open" to see through, or "own" for icons that are outlines: the colour, between dark lines.
    Parts that a two-tone icon has in blue take the colour, white ones a light shade.
    """
    edge = icon.width // 32
    wide = Image.new("RGBA", (icon.width + 4 * edge, icon.height + 4 * edge))
    wide.paste(icon, (2 * edge, 2 * edge))
    pixels = np.asarray(wide).astype(np.float64) / 255
    ink = pixels[..., 3]
    ground = Image.fromarray((255 * (ink > 0.35)).astype(np.uint8)).copy()  # that floodfill may write
    ImageDraw.floodfill(ground, (0, 0), 128)
    closed = np.asarray(ground) != 128 if holes != "open" else ink > 0.35
    colour = np.array(own, np.float64)
    dark, light = 0.38 * colour, 0.1 * colour + 225  # so light that painting leaves it
    line, gap = {"own": (0.5 * colour, colour), "dark": (colour, dark)}.get(holes, (colour, light))
    blue, white = np.clip(pixels[..., 2:3] - pixels[..., :1], 0, 1), pixels[..., :3].min(-1, keepdims=True)
    inked = line + (colour - line) * np.minimum(1, 2 * blue)
    inked = inked + (light - inked) * np.clip((white - 0.5) * 2, 0, 1)
    filled = gap + (inked - gap) * ink[..., None]
    shape = np.where(closed, 1.0, ink)
    drawn = dark + (filled - dark) * shape[..., None]
    rim = Image.fromarray((255 * shape).round().astype(np.uint8))
    if holes != "own":
        rim = rim.filter(ImageFilter.MaxFilter(edge | 1))
    return Image.fromarray(np.dstack([drawn, np.asarray(rim)]).round().astype(np.uint8))
