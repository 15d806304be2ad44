"""Scenes of the embedded world: eighty kinds of things on a background, made from a seed.

A scene is first a description (`Scene`), then pixels (`SceneMaker.render`); captions, questions and
boxes come from the description alone (janus/data/wording.py), so they are right by construction.

There are four looks.  "tidy" is what the model learns to draw: one drawing per class, few plain
backgrounds, places on the grid of the image tokenizer's codes, each scene made for one of GenEval's six
tasks.  "varied" is what it learns to see: one to six things in every art style but one, any colours,
sizes, angles and backgrounds.  "held-out style" is varied, in that one style only, "tidy held-out style" is
laid out as tidy scenes are, with drawings of that style.
Some combinations are in no scene but those made for scoring (see `janus.data.subjects.held_out`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar, get_args

import numpy as np
from PIL import Image

from janus.data.art import Sprite
from janus.data.backgrounds import TIDY_BACKGROUNDS, Background, paint_background, some_background
from janus.data.fitting import Drawings
from janus.data.layouts import (
    CELLS,
    RELATIONS,
    Box,
    Place,
    Relation,
    in_place,
    place_of,
    relation,
    scatter,
    tidy_places,
)
from janus.data.paint import things_table
from janus.data.subjects import (
    COLOURS,
    NAMES,
    UNPAINTED,
    Kind,
    Subject,
    held_out,
    some_kind,
    tidy_subjects,
    varied_subjects,
)

__all__ = [
    "CELLS",
    "COLOURS",
    "FACTS",
    "LOOKS",
    "NAMES",
    "RELATIONS",
    "TIDY_BACKGROUNDS",
    "Background",
    "Box",
    "Fact",
    "Kind",
    "Look",
    "Relation",
    "Scene",
    "SceneMaker",
    "Thing",
    "block",
    "relation",
]

T = TypeVar("T")
Look = Literal["tidy", "varied", "held-out style", "tidy held-out style"]
Fact = Literal["thing", "number", "colour", "place"]
LOOKS: tuple[Look, ...] = get_args(Look)
# What can be changed about a tidy scene so that its description holds no longer.
FACTS: dict[Kind, tuple[Fact, ...]] = {
    "single_object": ("thing",),
    "two_object": ("thing",),
    "counting": ("thing", "number"),
    "colors": ("thing", "colour"),
    "position": ("thing", "place"),
    "color_attr": ("thing", "colour"),
}
WRITTEN_ON = frozenset({"stop sign", "clock"})  # never mirrored
APART = 48  # of 255, in one channel at least: a pixel that stands out
STANDS_OUT = 0.5  # of a thing's pixels must


@dataclass(frozen=True)
class Thing:
    """One thing in a scene."""

    name: str  # one of the eighty
    colour: str | None  # one of the ten where it was painted so, None: the drawing's own colours
    sprite: int  # index into the maker's sprites
    box: Box  # tight around what is drawn
    angle: float = 0.0  # degrees, counter-clockwise
    mirrored: bool = False  # before it was turned

    @property
    def words(self) -> str:
        """ "red apple", or "apple" in its own colours."""
        return self.name if self.colour is None else f"{self.colour} {self.name}"


@dataclass(frozen=True)
class Scene:
    """One to six things; in tidy scenes in the order in which GenEval's sentence names them."""

    things: tuple[Thing, ...]  # in painting order
    background: Background
    kind: Kind | None  # GenEval's task that a tidy scene was made for; None for varied ones


class SceneMaker:
    """Makes scenes from drawings and renders them; `size` is the side of a picture in pixels.

    Classes without a drawing for a look do not appear in it.
    Raises ValueError for a size that the grid of tidy scenes does not fit, and for unknown classes.
    """

    def __init__(self, sprites: list[Sprite], size: int = 96) -> None:
        if size < 32 or size % CELLS:
            raise ValueError(f"the side of a picture must be a multiple of {CELLS} from 32 on, not {size}")
        if unknown := {sprite.name for sprite in sprites} - set(NAMES):
            raise ValueError(f"drawings of unknown classes: {', '.join(sorted(unknown))}")
        self.sprites = sprites
        self.size = size
        self.drawings = Drawings(sprites)
        classes, style = things_table()["classes"], things_table()["held_out_style"]
        self.to_draw: dict[str, list[int]] = {}  # sprites by class
        self.to_see: dict[str, list[int]] = {}
        self._held_out_style: dict[str, list[int]] = {}
        for i, sprite in enumerate(sprites):
            seen = self._held_out_style if sprite.style == style else self.to_see
            seen.setdefault(sprite.name, []).append(i)
            if f"{sprite.style}:{sprite.emoji}" == classes[sprite.name]["draw"]:
                self.to_draw[sprite.name] = [i]

    def at(
        self, look: Look, seed: int, index: int, kind: Kind | None = None, held_out: bool = False
    ) -> Scene:
        """The scene with this number: the same whatever else was made."""
        return self.make(look, np.random.default_rng((seed, _number(look), index)), kind, held_out)

    def make(
        self, look: Look, rng: np.random.Generator, kind: Kind | None = None, held_out: bool = False
    ) -> Scene:
        """A new scene; `kind` is the task of a tidy one; with `held_out` it shows a held-out combination.

        Raises ValueError for an unknown look or task, for a task or held-out combinations of a look that
        is not tidy, for held-out single objects (there are none), and where drawings are missing.
        """
        number = _number(look)
        if look != "tidy" and (kind is not None or held_out):
            raise ValueError(f"only tidy scenes have a task and held-out combinations; the look is {look!r}")
        table = (self.to_draw, self.to_see, self._held_out_style, self._held_out_style)[number]
        if len(table) < 2:
            raise ValueError(f"{look} scenes need drawings of two classes at least, not {len(table)}")
        if not look.startswith("tidy"):
            return self._varied(table, rng)
        kind = kind or some_kind(rng, held_out)
        subjects = tidy_subjects(kind, list(table), rng, held_out)
        places = tidy_places(len(subjects), rng)
        background = TIDY_BACKGROUNDS[int(rng.integers(len(TIDY_BACKGROUNDS)))]
        shown = list(zip(subjects, places, strict=True))
        if kind != "position":  # "a cat and a dog": what is named first comes first, row by row
            shown.sort(key=lambda one: (one[1][1], one[1][0]))
        drawings = {name: _one_of(table[name], rng) for name, _ in subjects}
        things = self.arranged([one for one, _ in shown], [place for _, place in shown], drawings)
        return Scene(things, background, kind)

    def placed(self, name: str, sprite: int, colour: str | None, x: int, y: int, edge: int) -> Thing:
        """A thing to draw in the middle of a block of `edge` × `edge` cells at column x and row y."""
        box = in_place(self.drawings.shape(sprite), (x, y, edge), self.size)
        return Thing(name, colour, sprite, box)

    def arranged(
        self, subjects: Sequence[Subject], places: Sequence[Place], drawings: Mapping[str, int] | None = None
    ) -> tuple[Thing, ...]:
        """Things, each in the middle of its block; `drawings` by class, if not those to draw."""
        if drawings is None:
            drawings = {name: self.to_draw[name][0] for name, _ in subjects}
        return tuple(
            self.placed(name, drawings[name], colour, *place)
            for (name, colour), place in zip(subjects, places, strict=True)
        )

    def _varied(self, table: dict[str, list[int]], rng: np.random.Generator) -> Scene:
        for _ in range(1000):
            subjects = varied_subjects(list(table), rng)
            drawings = {name: _one_of(table[name], rng) for name, _ in subjects}
            poses = []
            for name, _ in subjects:
                sprite = drawings[name] if rng.random() < 0.5 else _one_of(table[name], rng)
                poses.append((sprite, _angle(rng), bool(name not in WRITTEN_ON and rng.random() < 0.5)))
            boxes = scatter([self.drawings.shape(*pose) for pose in poses], self.size, rng)
            if boxes is None:
                continue
            things = tuple(
                Thing(name, colour, sprite, box, angle, mirrored)
                for (name, colour), (sprite, angle, mirrored), box in zip(subjects, poses, boxes, strict=True)
            )
            for _ in range(8):
                background = some_background(rng)
                if all(self._stands_out(thing, background) for thing in things):
                    return Scene(things, background, None)
        raise ValueError("in none of 1,000 varied scenes was room for all things and did all stand out")

    def _stands_out(self, thing: Thing, background: Background) -> bool:
        colours = self.drawings.colours(thing.sprite, thing.colour)
        behind = np.array(background.colours, np.int16)[:, None]
        apart = np.abs(colours - behind).max(-1).min(0) >= APART  # from the nearest colour behind it
        return bool(apart.mean() >= STANDS_OUT)

    def repainted(self, scene: Scene, rng: np.random.Generator) -> Scene:
        """The scene with all that is painted in other colours, none of them held out."""
        things = [
            thing if thing.colour is None else replace(thing, colour=_one_of(self.paints(thing), rng))
            for thing in scene.things
        ]
        return replace(scene, things=tuple(things))

    def paints(self, thing: Thing) -> list[str]:
        """The colours that a painted thing may have in training, but for its own."""
        return [c for c in COLOURS if c != thing.colour and not held_out([(thing.name, c)])]

    def render(self, scene: Scene) -> np.ndarray:
        """(size, size, 3) uint8."""
        picture = paint_background(scene.background, self.size)
        for thing in scene.things:
            drawing = self._drawing(thing)
            picture.paste(drawing, thing.box[:2], drawing)
        return np.asarray(picture)

    def owners(self, scene: Scene) -> np.ndarray:
        """Which thing each pixel shows, (size, size) int64: its number in `scene.things`, -1 for none."""
        owners = np.full((self.size, self.size), -1)
        for number, thing in enumerate(scene.things):
            left, top, right, bottom = thing.box
            owners[top:bottom, left:right][np.asarray(self._drawing(thing))[..., 3] > 127] = number
        return owners

    def patches(self, scene: Scene, patch: int) -> list[Thing | None]:
        """What each patch of `patch` pixels shows, rows first: the thing that covers most of it.

        A patch less than a third covered shows none.
        """
        grid = self.size // patch
        owners = self.owners(scene)[: grid * patch, : grid * patch]
        cells = owners.reshape(grid, patch, grid, patch).transpose(0, 2, 1, 3).reshape(grid * grid, -1)
        shares = np.stack([(cells == number).mean(axis=1) for number in range(len(scene.things))])
        most, enough = shares.argmax(axis=0), shares.max(axis=0) >= 1 / 3
        return [scene.things[number] if yes else None for number, yes in zip(most, enough, strict=True)]

    def _drawing(self, thing: Thing) -> Image.Image:
        left, top, right, bottom = thing.box
        what = (thing.sprite, thing.colour, (right - left, bottom - top), thing.mirrored)
        return self.drawings.turned(*what, thing.angle) if thing.angle else self.drawings.fit(*what)

    def changed(self, scene: Scene, fact: Fact, rng: np.random.Generator) -> Scene:
        """The tidy scene with exactly one fact changed, so that its old description holds no longer.

        "thing": another class instead (of all, where things are counted); "number": another number from two
        to four; "colour": another colour, that no thing had; "place": another relation between the two.
        Raises ValueError where `FACTS` does not name the fact for the scene's task.
        """
        if scene.kind is None or fact not in FACTS[scene.kind]:
            possible = "none" if scene.kind is None else ", ".join(FACTS[scene.kind])
            raise ValueError(f"can't change the {fact} of a scene for {scene.kind}, but: {possible}")
        things = scene.things
        subjects: list[Subject] = [(thing.name, thing.colour) for thing in things]
        places = [block(thing, self.size) for thing in things]
        which = int(rng.integers(len(things)))
        if fact == "thing":
            out = {name for name, _ in subjects} | (UNPAINTED if things[which].colour else frozenset())
            other = _one_of([name for name in self.to_draw if name not in out], rng)
            changing = range(len(things)) if scene.kind == "counting" else [which]
            for i in changing:
                subjects[i] = (other, subjects[i][1])
        elif fact == "colour":
            had = {colour for _, colour in subjects}
            colour = _one_of([colour for colour in COLOURS if colour not in had], rng)
            subjects[which] = (subjects[which][0], colour)
        elif fact == "number":
            count = _one_of([n for n in (2, 3, 4) if n != len(things)], rng)
            subjects, places = subjects[:1] * count, tidy_places(count, rng)
        else:
            now = relation(things[0].box, things[1].box)
            places = tidy_places(2, rng, _one_of([r for r in RELATIONS if r != now], rng))
        return replace(scene, things=self.arranged(subjects, places))


def block(thing: Thing, size: int) -> Place:
    """The block of cells that a thing to draw stands in: column, row and cells along a side.

    `size` is the side of the picture in pixels.  Raises ValueError for a thing that is not on the grid.
    """
    if thing.angle or thing.mirrored:
        raise ValueError(f"things to draw are neither turned nor mirrored, this {thing.name} is")
    return place_of(thing.box, size)


def _number(look: Look) -> int:
    if look not in LOOKS:
        raise ValueError(f"no look {look!r}, there are {', '.join(LOOKS)}")
    return LOOKS.index(look)


def _angle(rng: np.random.Generator) -> float:
    """Upright for half of the things, up to 20° for most others, any for some; in whole steps."""
    kind = rng.random()
    if kind < 0.5:
        return 0.0
    if kind < 0.85:
        return float(rng.choice([-20, -15, -10, -5, 5, 10, 15, 20]))
    return float(15 * rng.integers(2, 23))


def _one_of(values: list[T], rng: np.random.Generator) -> T:
    return values[int(rng.integers(len(values)))]
