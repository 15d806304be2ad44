"""Scenes of the embedded world: one thing or two on a plain background, made from a seed.

A scene is first a description (`Scene`), then pixels (`World.render`); captions and questions are
made from the description alone (janus/data/language.py), so they are right by construction.

There are two looks.  What the model learns to draw is tidy: one art style per picture, few
backgrounds, places on the grid of the image tokenizer's codes.  What it learns to see is varied:
every style that is not held out, any background, size and place.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from typing import Any, Literal

import numpy as np
from PIL import Image

from janus.data.art import Sprite

Relation = Literal["left of", "right of", "above", "below"]
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels
CELLS = 8  # along a side; things to draw are placed on this grid, that of the image tokenizer's codes


@lru_cache
def world_table() -> dict[str, Any]:
    """The parsed `world.json`: classes, colours, backgrounds, which styles are drawn."""
    return json.loads(resources.files("janus.data").joinpath("world.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Thing:
    """One thing in a scene.  `colour` is None where the drawing keeps its own colours."""

    name: str
    colour: str | None
    sprite: int  # index into the world's sprites
    box: Box  # what it is fitted into


@dataclass(frozen=True)
class Scene:
    """One or two things.  With two, `relation` says where the first is, seen from the second."""

    things: tuple[Thing, ...]
    relation: Relation | None
    background: tuple[int, int, int]


class World:
    """Makes and renders scenes from a set of drawings; `size` is the side of a picture in pixels."""

    def __init__(self, sprites: list[Sprite], size: int = 96) -> None:
        self.sprites = sprites
        self.size = size
        self.names = list(world_table()["classes"])
        self.colours = list(world_table()["colours"])
        self._fitted: dict[tuple[int, str | None, int, int], Image.Image] = {}

    @cached_property
    def _to_draw(self) -> dict[tuple[str, str], list[int]]:
        """Indices of the sprites to draw, by style and class."""
        table = world_table()["classes"]
        found: dict[tuple[str, str], list[int]] = {}
        for i, sprite in enumerate(self.sprites):
            if sprite.emoji in table[sprite.name]["draw"]:
                found.setdefault((sprite.style, sprite.name), []).append(i)
        return found

    @cached_property
    def _to_see(self) -> dict[str, list[int]]:
        """Indices of the sprites of every style that is not held out, by class."""
        held_out = world_table()["held_out_style"]
        return {
            name: [i for i, s in enumerate(self.sprites) if s.name == name and s.style != held_out]
            for name in self.names
        }

    @cached_property
    def _held_out(self) -> dict[str, list[int]]:
        held_out = world_table()["held_out_style"]
        return {
            name: [i for i, s in enumerate(self.sprites) if s.name == name and s.style == held_out]
            for name in self.names
        }

    def drawing(self, rng: np.random.Generator) -> Scene:
        """A tidy scene, for the tokenizer and for learning to draw."""
        styles = world_table()["drawing_styles"]
        style = str(rng.choice(list(styles), p=list(styles.values())))
        backgrounds = world_table()["drawing_backgrounds"]
        background = tuple(backgrounds[rng.integers(len(backgrounds))])
        names, colours, relation = self._what(rng)
        sprites = [int(rng.choice(self._to_draw[style, name])) for name in names]
        if names[0] == names[-1] and colours[0] == colours[-1]:
            sprites = [sprites[0]] * len(sprites)
        if relation is None:
            places = self.single_boxes(self.size)
            boxes = [places[int(rng.integers(len(places)))]]
        else:
            boxes = self.pair_boxes(self.size, relation, int(rng.choice(self.ACROSS)))
        return self._scene(names, colours, sprites, boxes, relation, background)

    ACROSS = (2,)  # cells that a pair may be shifted, across the line it stands in

    @staticmethod
    def single_boxes(size: int) -> list[Box]:
        """Where one thing to draw may be: in the middle."""
        return [_in_cells(size, 1, 1, 6)]

    @staticmethod
    def pair_boxes(size: int, relation: Relation, across: int) -> list[Box]:
        """Where two things to draw are, in the order of the relation."""
        return [_in_cells(size, x, y, 4) for x, y in _arrange(relation, (0, across), (4, across))]

    def seeing(self, rng: np.random.Generator, held_out: bool = False) -> Scene:
        """A varied scene, for learning to see; `held_out` takes the style no training picture has."""
        table = self._held_out if held_out else self._to_see
        names, colours, relation = self._what(rng)
        background = _background(rng)
        if "white" in colours or "black" in colours:  # must stand out
            background = tuple(rng.choice(world_table()["drawing_backgrounds"]).tolist())
        sprites = [int(rng.choice(table[name])) for name in names]
        size = self.size
        if relation is None:
            edge = int(rng.integers(size * 45 // 100, size * 95 // 100))
            x, y = (int(v) for v in rng.integers(0, size - edge + 1, 2))
            boxes = [(x, y, x + edge, y + edge)]
        else:
            places = []
            for start in (0, size // 2):
                edge = int(rng.integers(size * 32 // 100, size * 49 // 100))
                along = start + int(rng.integers(0, size // 2 - edge + 1))
                middle = (size - edge) // 2
                reach = min(middle, size // 6)
                places.append((along, middle + int(rng.integers(-reach, reach + 1)), edge))
            ends = _arrange(relation, places[0][:2], places[1][:2])
            order = (0, 1) if relation in ("left of", "above") else (1, 0)
            edges = [places[i][2] for i in order]
            boxes = [(x, y, x + e, y + e) for (x, y), e in zip(ends, edges, strict=True)]
        return self._scene(names, colours, sprites, boxes, relation, background)

    def _what(self, rng: np.random.Generator) -> tuple[list[str], list[str | None], Relation | None]:
        kind = rng.random()
        names = [str(n) for n in rng.choice(self.names, 2, replace=False)]
        relation: Relation | None = None
        if kind < 0.5:
            names = names[:1]
        else:
            relation = ("left of", "right of", "above", "below")[rng.integers(4)]
            if kind > 0.9:
                names[1] = names[0]
        coloured = rng.random() < 0.55
        colours = [str(rng.choice(self.colours)) if coloured else None for _ in names]
        if names[0] == names[-1]:
            colours = colours[:1] * len(names)
        return names, colours, relation

    def _scene(
        self,
        names: list[str],
        colours: list[str | None],
        sprites: list[int],
        boxes: list[Any],
        relation: Relation | None,
        background: Any,
    ) -> Scene:
        things = tuple(Thing(*parts) for parts in zip(names, colours, sprites, boxes, strict=True))
        return Scene(things, relation, background)

    def render(self, scene: Scene) -> np.ndarray:
        """(size, size, 3) uint8."""
        picture = Image.new("RGB", (self.size, self.size), scene.background)
        for thing in scene.things:
            left, top, right, bottom = thing.box
            drawing = self.fit(thing.sprite, thing.colour, right - left, bottom - top)
            at = (left + (right - left - drawing.width) // 2, top + (bottom - top - drawing.height) // 2)
            picture.paste(drawing, at, drawing)
        return np.asarray(picture)

    def fit(self, sprite: int, colour: str | None, width: int, height: int) -> Image.Image:
        """A drawing, recoloured and scaled to fit; kept for the next time."""
        key = (sprite, colour, width, height)
        if key not in self._fitted:
            pixels = self.sprites[sprite].pixels
            if colour is not None:
                paint = world_table()["classes"][self.sprites[sprite].name].get("paint")
                pixels = recolour(pixels, colour, paint)
            picture = Image.fromarray(pixels)
            scale = min(width / picture.width, height / picture.height)
            size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
            self._fitted[key] = picture.resize(size, Image.Resampling.LANCZOS)
        return self._fitted[key]


def _arrange(relation: Relation, near: tuple[int, int], far: tuple[int, int]) -> list[tuple[int, int]]:
    """The two corners in the order of the things, for places given along the x axis."""
    places = [near, far] if relation in ("left of", "above") else [far, near]
    return places if relation in ("left of", "right of") else [(y, x) for x, y in places]


def _in_cells(size: int, x: int, y: int, edge: int) -> Box:
    cell = size // CELLS
    return (x * cell + 2, y * cell + 2, (x + edge) * cell - 2, (y + edge) * cell - 2)


def _background(rng: np.random.Generator) -> tuple[int, int, int]:
    """White, one of the drawing backgrounds, or any light or middling colour."""
    kind = rng.random()
    if kind < 0.15:
        return (255, 255, 255)
    if kind < 0.4:
        backgrounds = world_table()["drawing_backgrounds"]
        return tuple(backgrounds[rng.integers(len(backgrounds))])
    base = rng.integers(90, 256) if kind < 0.6 else rng.integers(190, 256)
    red, green, blue = (int(np.clip(base + v, 0, 255)) for v in rng.integers(-30, 31, 3))
    return (red, green, blue)


def recolour(pixels: np.ndarray, colour: str, paint: float | Literal["whole"] | None = None) -> np.ndarray:
    """The drawing (h, w, 4) with its main colour replaced, shading and details kept.

    `paint`, from world.json, is the hue in degrees that counts as the main colour, or "whole" where the
    grey parts belong to it too; without it the main colour is the most frequent hue, and a drawing that
    has hardly any colour is tinted whole, apart from its dark lines.
    """
    target = np.array(world_table()["colours"][colour]["rgb"], np.float32)
    rgb, alpha = pixels[..., :3].astype(np.float32), pixels[..., 3].astype(np.float32) / 255
    mask = main_colour(pixels, paint)
    shade = rgb @ np.array([0.3, 0.59, 0.11], np.float32)
    inside = shade[(mask > 0.5) & (alpha > 0.5)]
    middle = float(np.median(inside)) if inside.size else 128.0
    ratio = (shade / max(middle, 1.0))[..., None]
    dark = target * np.clip(ratio, 0.25, 1) ** 0.8
    light = target + (255 - target) * np.clip((ratio - 1) * 0.6, 0, 0.7)
    painted = np.where(ratio < 1, dark, light)
    mixed = rgb + (painted - rgb) * mask[..., None]
    return np.dstack([mixed.clip(0, 255).astype(np.uint8), pixels[..., 3]])


def main_colour(pixels: np.ndarray, paint: float | Literal["whole"] | None = None) -> np.ndarray:
    """How much each pixel belongs to the drawing's main colour, (h, w) in [0, 1].  See `recolour`."""
    hsv = np.asarray(Image.fromarray(np.ascontiguousarray(pixels[..., :3])).convert("HSV")).astype(np.float32)
    hue, saturation, value = hsv[..., 0] * (360 / 256), hsv[..., 1] / 255, hsv[..., 2] / 255
    solid = pixels[..., 3] > 128
    chroma = saturation * value * solid
    colourful = chroma > 0.25
    grey = np.clip((value - 0.3) / 0.2, 0, 1) * np.clip(1.5 - chroma / 0.5, 0, 1)
    if colourful.sum() < 0.3 * solid.sum():
        return grey
    histogram, _ = np.histogram(hue[colourful], bins=36, range=(0, 360), weights=chroma[colourful])
    smooth = np.sum([np.roll(histogram, k) for k in (-2, -1, 0, 1, 2)], axis=0)
    centre = 10.0 * int(np.argmax(smooth)) + 5
    if isinstance(paint, int | float) and smooth[int(paint) // 10] > 0.2 * smooth.max():
        centre = float(paint)
    distance = np.abs((hue - centre + 180) % 360 - 180)
    main = np.clip((60 - distance) / 15, 0, 1) * np.clip((chroma - 0.08) / 0.1, 0, 1)
    return np.maximum(main, grey) if paint == "whole" else main
