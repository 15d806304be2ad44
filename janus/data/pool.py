"""Scenes in bulk: rendered once, kept in the work folder, described again from their seeds."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from janus.data import world as world_module
from janus.data.art import Sprite
from janus.data.world import Scene, World, world_table

Look = Literal["drawing", "seeing", "held-out"]


def scene_at(world: World, look: Look, seed: int, index: int) -> Scene:
    """The scene with this number: the same whatever else was made."""
    rng = np.random.default_rng((seed, ("drawing", "seeing", "held-out").index(look), index))
    return world.drawing(rng) if look == "drawing" else world.seeing(rng, held_out=look == "held-out")


def pictures(world: World, look: Look, seed: int, count: int, work: Path, workers: int = 2) -> np.ndarray:
    """(count, size, size, 3) uint8 of scenes 0..count-1, memory-mapped from `work` once rendered."""
    rules = Path(world_module.__file__).read_bytes() + json.dumps(world_table()).encode()
    key = hashlib.sha256(rules).hexdigest()[:8]  # scenes of other rules are other scenes
    path = work / f"{look}-{world.size}px-{seed}-{count}-{key}.npy"
    if not path.exists():
        beside = path.with_suffix(".tmp.npy")
        shape = (count, world.size, world.size, 3)
        stored = np.lib.format.open_memmap(beside, mode="w+", dtype=np.uint8, shape=shape)
        starts = range(0, count, 1000)
        render = partial(_render, world.sprites, world.size, look, seed)
        with ProcessPoolExecutor(workers) as executor:
            ends = (min(start + 1000, count) for start in starts)
            for start, part in zip(starts, executor.map(render, starts, ends), strict=True):
                stored[start : start + len(part)] = part
        stored.flush()
        beside.rename(path)
    return np.load(path, mmap_mode="c")  # copy on write: torch takes no read-only arrays


_worlds: dict[int, World] = {}


def _render(sprites: list[Sprite], size: int, look: Look, seed: int, start: int, end: int) -> np.ndarray:
    world = _worlds.setdefault(size, World(sprites, size))  # keeps the fitted drawings between calls
    return np.stack([world.render(scene_at(world, look, seed, i)) for i in range(start, end)])
