"""The codes that the model learns to draw with: local, and the same wherever a thing stands.

The image tokenizer's encoder looks at the whole picture, so that even an empty corner is coded by what
stands elsewhere; to predict such codes is to learn by heart.  Here each thing is coded once, alone, as a
block of cells, and a scene is its blocks on a background of one code.  The decoder is trained on both
(janus/train/decoder.py) and paints the right background between a thing's edges.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import torch

from janus.data.blocks import as_pixels
from janus.data.pool import pictures, scene_at
from janus.data.world import CELLS, Scene, Thing, World, world_table
from janus.tokenizers.image import VqTokenizer
from janus.train.recipe import Recipe

EMPTY = -1  # a cell of a block that shows only background
Block = tuple[int, str | None, int]  # sprite, colour, cells along a side


@torch.inference_mode()
def drawing_codes(recipe: Recipe, world: World, tokenizer: VqTokenizer, work: Path) -> np.ndarray:
    """The codes of every picture to draw, (scenes, K), kept in `work`.

    Raises ValueError for a tokenizer whose codes are not on the grid that things stand on.
    """
    if tokenizer.config.grid != CELLS:
        raise ValueError(f"the image tokenizer has {tokenizer.config.grid} codes along a side, not {CELLS}")
    path = work / "codes.npy"
    if not path.exists():
        scenes = [scene_at(world, "drawing", recipe.work.seed, i) for i in range(recipe.work.scenes)]
        empty = _background_codes(recipe, world, tokenizer, work, scenes)
        blocks = _blocks(world, tokenizer, scenes)
        np.save(path, np.stack([compose(scene, blocks, empty, world) for scene in scenes]))
    return np.asarray(np.load(path))


def compose(
    scene: Scene, blocks: dict[Block, np.ndarray], empty: dict[tuple[int, ...], int], world: World
) -> np.ndarray:
    """The codes of a scene, (K,): its things' blocks on the code of its background."""
    cell = world.size // CELLS
    grid = np.full((CELLS, CELLS), empty[scene.background], np.int16)
    for thing in scene.things:
        x, y, edge = thing.box[0] // cell, thing.box[1] // cell, _cells(thing, cell)
        block = blocks[thing.sprite, thing.colour, edge]
        part = grid[y : y + edge, x : x + edge]
        part[block != EMPTY] = block[block != EMPTY]
    return grid.flatten()


def name_weights(codes: np.ndarray, scenes: list[Scene], world: World, weight: float) -> np.ndarray:
    """How much each code counts in the loss, (scenes, K) float32 with a mean of 1 in every picture.

    All that a thing's name and colour can tell, the first cell of its block needs; the others follow from
    those before them.  That cell counts `weight` times as much, or its one loss in K would be learnt last.
    """
    weights = np.ones(codes.shape, np.float32)
    cell = world.size // CELLS
    for row, scene in enumerate(scenes):
        grid = codes[row].reshape(CELLS, CELLS)
        background = np.bincount(codes[row]).argmax()
        for thing in scene.things:
            x, y, edge = thing.box[0] // cell, thing.box[1] // cell, _cells(thing, cell)
            down, along = np.argwhere(grid[y : y + edge, x : x + edge] != background)[0]
            weights[row, (y + down) * CELLS + x + along] = weight
    return weights / weights.mean(axis=1, keepdims=True)


def _cells(thing: Thing, cell: int) -> int:
    return (thing.box[2] - thing.box[0]) // cell + 1  # a box is a little smaller than its cells


def _background_codes(
    recipe: Recipe, world: World, tokenizer: VqTokenizer, work: Path, scenes: list[Scene]
) -> dict[tuple[int, ...], int]:
    """For each background the code that the encoder gives most often to an empty corner."""
    count = min(2000, len(scenes))
    pool = pictures(world, "drawing", recipe.work.seed, recipe.work.scenes, work)
    parts = [tokenizer.encode(as_pixels(pool[i : i + 50])) for i in range(0, count, 50)]
    corners = torch.cat(parts)[:count, -1].tolist()
    counts: dict[tuple[int, ...], Counter[int]] = {
        tuple(background): Counter({index: 0})
        for index, background in enumerate(world_table()["drawing_backgrounds"])
    }
    for scene, code in zip(scenes[:count], corners, strict=True):
        counts[scene.background][code] += 1
    return {background: counter.most_common(1)[0][0] for background, counter in counts.items()}


def _blocks(world: World, tokenizer: VqTokenizer, scenes: list[Scene]) -> dict[Block, np.ndarray]:
    """The codes of every thing of these scenes, alone in the middle of the first background."""
    cell = world.size // CELLS
    background = tuple(world_table()["drawing_backgrounds"][0])
    things = {(t.sprite, t.colour, _cells(t, cell)): t for scene in scenes for t in scene.things}
    blocks = {}
    for (sprite, colour, edge), thing in things.items():
        start = (CELLS - edge) // 2
        low, high = start * cell + 2, (start + edge) * cell - 2
        alone = Thing(thing.name, colour, sprite, (low, low, high, high))
        picture = world.render(Scene((alone,), None, background))
        codes = tokenizer.encode(as_pixels(picture[None])).numpy().reshape(CELLS, CELLS).astype(np.int16)
        drawn = (picture != np.array(background)).any(-1).reshape(CELLS, cell, CELLS, cell).any((1, 3))
        codes[~drawn] = EMPTY
        blocks[sprite, colour, edge] = codes[start : start + edge, start : start + edge]
    return blocks
