"""Says what a drawn picture of the embedded world shows, without any trained weights.

Every drawing that could be meant is known, and so are its few places.  The judge renders all of them
and takes the arrangement with the least squared error.  A picture that even the best one explains
badly shows nothing recognisable.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from janus.data.world import Relation, Scene, World, world_table

LEAST_EXPLAINED = 0.5  # of what sets the picture apart from its empty background
SCALE = 2  # pixels averaged before comparing, so that a small shift or blur costs little

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Verdict:
    """What was found: class and colour of each thing, in reading order; empty if unrecognisable."""

    names: tuple[str, ...]
    colours: tuple[str | None, ...]
    across: bool  # side by side rather than one above the other


class Judge:
    """Compares pictures with everything that `world` could have drawn."""

    def __init__(self, world: World) -> None:
        self.world = world
        table = world_table()
        self.backgrounds = [tuple(b) for b in table["drawing_backgrounds"]]
        self.looks = [
            (i, sprite.name, colour)
            for i, sprite in enumerate(world.sprites)
            if sprite.style in table["drawing_styles"]
            and sprite.emoji in table["classes"][sprite.name]["draw"]
            for colour in [None, *world.colours]
        ]
        self._templates = lru_cache(maxsize=None)(self._render_templates)

    def judge(self, picture: np.ndarray, *, coloured: bool = False) -> Verdict:
        """What a (size, size, 3) uint8 picture shows.  `coloured`: all things are known to be recoloured."""
        edge = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]]).astype(np.float32)
        far = [np.abs(np.median(edge, axis=0) - b).sum() for b in self.backgrounds]
        background = int(np.argmin(far))
        small = _shrink(picture)
        blank = (small - np.array(self.backgrounds[background], np.float32)) ** 2
        total = float(blank.sum())
        best, found = np.inf, Verdict((), (), True)
        for boxes, across in _layouts(self.world.size):
            error, looks = total, []
            for box in boxes:
                left, top, right, bottom = (v // SCALE for v in box)
                part = small[top:bottom, left:right]
                templates = self._templates(box[2] - box[0], background)
                errors = ((templates - part) ** 2).sum(axis=(1, 2, 3))
                if coloured:
                    errors = np.where([look[2] is None for look in self.looks], np.inf, errors)
                choice = int(errors.argmin())
                error += float(errors[choice] - blank[top:bottom, left:right].sum())
                looks.append(self.looks[choice])
            if error < best:
                best = error
                found = Verdict(tuple(x[1] for x in looks), tuple(x[2] for x in looks), across)
        return found if best < (1 - LEAST_EXPLAINED) * total else Verdict((), (), True)

    def _render_templates(self, edge: int, background: int) -> np.ndarray:
        """Every look in a box of this edge, (looks, edge / SCALE, edge / SCALE, 3)."""
        rendered = []
        for sprite, _, colour in self.looks:
            canvas = Image.new("RGB", (edge, edge), self.backgrounds[background])
            drawing = self.world.fit(sprite, colour, edge, edge)
            canvas.paste(drawing, ((edge - drawing.width) // 2, (edge - drawing.height) // 2), drawing)
            rendered.append(_shrink(np.asarray(canvas)))
        return np.stack(rendered)


def agrees(verdict: Verdict, scene: Scene, *, place: bool = False, colour: bool = False) -> bool:
    """Whether the picture shows the scene's things; `place` and `colour`: also as the prompt says."""
    wanted = [(thing.name, thing.colour if colour else None) for thing in scene.things]
    found = [
        (name, shade if colour else None) for name, shade in zip(verdict.names, verdict.colours, strict=True)
    ]
    if not place or scene.relation is None:
        return sorted(wanted, key=str) == sorted(found, key=str)
    if scene.relation in ("right of", "below"):
        wanted.reverse()
    return wanted == found and verdict.across == (scene.relation in ("left of", "right of"))


def _shrink(picture: np.ndarray) -> np.ndarray:
    height, width, _ = picture.shape
    blocks = picture.astype(np.float32).reshape(height // SCALE, SCALE, width // SCALE, SCALE, 3)
    return blocks.mean(axis=(1, 3))


def _layouts(size: int) -> list[tuple[list[Box], bool]]:
    """Where `World.drawing` puts one thing or two: boxes in reading order, and if side by side."""
    relations: tuple[Relation, Relation] = ("left of", "above")
    singles = [([box], True) for box in World.single_boxes(size)]
    pairs = [
        (World.pair_boxes(size, relation, across), relation == "left of")
        for relation in relations
        for across in World.ACROSS
    ]
    return singles + pairs
