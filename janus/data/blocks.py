"""Codes to draw tidy scenes with: local, and the same wherever a thing stands.

An image tokenizer's encoder looks at the whole picture, so that even an empty corner is coded by what
stands elsewhere; to predict such codes is to learn by heart.  Here each thing is coded once, alone, as a
block of cells, and a scene is its blocks on a background of one code.  The decoder is trained on such
codes too and paints the right background between a thing's edges.

Where codes have tones (`janus.train.tones`), a painted thing has the same shapes in every colour, and the
tone of its colour in all of its cells.

Shapes: K codes of a picture, rows first, CELLS along a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, cached_property
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from janus.data.scenes import CELLS, COLOURS, TIDY_BACKGROUNDS, Background, Scene, SceneMaker, Thing, block
from janus.data.subjects import held_out
from janus.tokenizers.image import VqTokenizer

ANY = -1  # a tone that is not laid down
EMPTY = -1  # a cell of a block that shows only background
_SCENES = 32  # that tell the code of a background


class Blocks:
    """The codes of everything that tidy scenes show, made when they are first asked for.

    Raises ValueError for a tokenizer whose codes are not on the grid that things stand on, or whose
    pictures have another size, or with fewer tones than there are colours.
    """

    def __init__(self, maker: SceneMaker, tokenizer: VqTokenizer) -> None:
        config = tokenizer.config
        if (config.grid, config.image_size) != (CELLS, maker.size):
            raise ValueError(
                f"things to draw stand on {CELLS} × {CELLS} cells of pictures with {maker.size} pixels; the "
                f"image tokenizer has {config.grid} × {config.grid} codes for {config.image_size} pixels"
            )
        if 1 < config.tones < len(COLOURS):
            raise ValueError(
                f"{len(COLOURS)} colours need a tone each; the image tokenizer has {config.tones}"
            )
        self.maker, self.tokenizer = maker, tokenizer
        self._drawn = cache(self._drawn_cells)
        self._seen = cache(self._seen_alone)
        self._blocks: dict[tuple[int, str | None, int], np.ndarray] = {}
        self._lock = Lock()

    def codes(self, scene: Scene) -> np.ndarray:
        """The codes of a tidy scene, (K,) int64."""
        grid = np.full((CELLS, CELLS), self._backgrounds[scene.background])
        for thing in scene.things:
            x, y, edge = block(thing, self.maker.size)
            own = self.alone(thing)
            part = grid[y : y + edge, x : x + edge]
            part[own != EMPTY] = own[own != EMPTY]
        return grid.flatten()

    def of(self, thing: Thing) -> np.ndarray:
        """The codes of a thing of a tidy scene alone, rows first, without its block's empty cells."""
        own = self.alone(thing)
        return own[own != EMPTY]

    def tones(self, scene: Scene) -> np.ndarray:
        """Which tone each code of a tidy scene should have, (K,) int64: -1 for any.

        What is painted has that of its colour, so that its shapes are the same in all of them.
        """
        grid = np.full((CELLS, CELLS), ANY)
        for thing in scene.things:
            if thing.colour is not None:
                x, y, edge = block(thing, self.maker.size)
                grid[y : y + edge, x : x + edge][self._drawn(thing)] = COLOURS.index(thing.colour)
        return grid.flatten()

    def weights(self, scene: Scene, weight: float) -> np.ndarray:
        """How much each code should count in the loss, (K,) float32 with a mean of 1.

        All that a thing's name and colour can tell, the first cell of its block needs; the others follow
        from those before them.  That cell counts `weight` times as much, or its one loss in K would be
        learnt last.
        """
        weights = np.ones((CELLS, CELLS), np.float32)
        for thing in scene.things:
            x, y, _ = block(thing, self.maker.size)
            down, along = np.argwhere(self.alone(thing) != EMPTY)[0]
            weights[y + down, x + along] = weight
        return weights.flatten() / weights.mean()

    @cached_property
    def _backgrounds(self) -> dict[Background, int]:
        """For each background the code that pictures with it show most often."""
        found = {}
        for background in TIDY_BACKGROUNDS:
            scenes = [replace(self.maker.at("tidy", 0, i), background=background) for i in range(_SCENES)]
            found[background] = int(self._encode(scenes).flatten().mode().values)
        return found

    def alone(self, thing: Thing) -> np.ndarray:
        """The codes of a thing of a tidy scene, (edge, edge), coded alone in the middle of a plain picture.

        `edge` is that of its block; cells that show nothing of it are `EMPTY`.
        """
        edge = block(thing, self.maker.size)[2]
        key = (thing.sprite, thing.colour, edge)
        with self._lock:
            if key not in self._blocks:
                self._blocks[key] = self._coded(thing)
            return self._blocks[key]

    def _coded(self, thing: Thing) -> np.ndarray:
        tones, alone = self.tokenizer.config.tones, self._in_the_middle(thing)
        if toned := tones > 1 and thing.colour is not None:  # in all colours it has the shapes of one
            alone = replace(alone, colour=next(c for c in COLOURS if not held_out([(thing.name, c)])))
        codes = self._seen(alone)
        if toned:
            codes = codes // tones * tones + COLOURS.index(str(thing.colour))
        x, y, edge = block(alone, self.maker.size)
        return np.where(self._drawn(thing), codes[y : y + edge, x : x + edge], EMPTY)

    def _seen_alone(self, thing: Thing) -> np.ndarray:
        """What the encoder makes of a plain picture with this thing alone, (CELLS, CELLS)."""
        return self._encode([Scene((thing,), TIDY_BACKGROUNDS[0], None)])[0].view(CELLS, CELLS).numpy()

    def _in_the_middle(self, thing: Thing) -> Thing:
        edge = block(thing, self.maker.size)[2]
        start = (CELLS - edge) // 2
        return self.maker.placed(thing.name, thing.sprite, thing.colour, start, start, edge)

    def _drawn_cells(self, thing: Thing) -> np.ndarray:
        """Which cells of its block a thing to draw reaches into, (edge, edge) bool."""
        x, y, edge = block(middle := self._in_the_middle(thing), self.maker.size)
        there, empty = (self.maker.render(Scene(s, TIDY_BACKGROUNDS[0], None)) for s in ((middle,), ()))
        cell = self.maker.size // CELLS
        drawn = (there != empty).any(-1).reshape(CELLS, cell, CELLS, cell).any((1, 3))
        return drawn[y : y + edge, x : x + edge]

    @torch.inference_mode()
    def _encode(self, scenes: Sequence[Scene]) -> Tensor:
        """Of pictures of these scenes, (N, K)."""
        return self.tokenizer.encode(as_pixels(np.stack([self.maker.render(scene) for scene in scenes])))


def as_pixels(pictures: np.ndarray) -> Tensor:
    """(N, S, S, 3) uint8 to (N, 3, S, S) in [-1, 1], what both image encoders take."""
    return torch.tensor(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
