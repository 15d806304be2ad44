"""Teaches the vision encoder to say, patch by patch, which thing is there and in which colour.

Answers to questions alone teach an encoder without any pretraining too slowly: a short answer is little
to learn from.  Here every patch has its own.  Only the encoder is kept; the two small heads are not.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus.config import VisionConfig
from janus.data.art import load_sprites
from janus.data.blocks import as_pixels
from janus.data.pool import Look, pictures, scene_at
from janus.data.world import Scene, World
from janus.encoders.siglip import SiglipTower
from janus.train.common import Run
from janus.train.recipe import Recipe

CHECKPOINT = "vision.pt"
LOOKS: tuple[Look, ...] = ("seeing", "drawing")
NOTHING = -100  # the label of a patch that a loss leaves out


class PatchReader(nn.Module):
    """An encoder with a head for kinds (0 is background) and one for colours (0 is the thing's own)."""

    def __init__(self, tower: SiglipTower, kinds: int, colours: int) -> None:
        super().__init__()
        self.tower = tower
        self.kind = nn.Linear(tower.config.width, kinds + 1)
        self.colour = nn.Linear(tower.config.width, colours + 1)

    def forward(self, pixels: Tensor, kinds: Tensor, colours: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (N, 3, S, S) and labels (N, P) to the loss and the share of things' patches read right."""
        features = self.tower(pixels)
        kind, colour = self.kind(features).transpose(1, 2), self.colour(features).transpose(1, 2)
        loss = F.cross_entropy(kind, kinds) + F.cross_entropy(colour, colours, ignore_index=NOTHING)
        right = (kind.argmax(1) == kinds) & (colour.argmax(1) == colours)
        return loss, right[kinds > 0].float().mean()


class Lessons:
    """Pictures of both looks with their patches' labels, and the reader that learns from them."""

    def __init__(self, recipe: Recipe, world: World, tower: SiglipTower, work: Path) -> None:
        seed, count = recipe.work.seed, recipe.work.scenes
        self.generator = torch.Generator().manual_seed(seed + 2)
        self.reader = PatchReader(tower, len(world.names), len(world.colours))
        self.pools = []
        for look in LOOKS:
            scenes = [scene_at(world, look, seed, i) for i in range(count)]
            pool = pictures(world, look, seed, count, work)
            self.pools.append((pool, *labels(world, scenes, tower.config)))

    def loss(self, count: int) -> tuple[Tensor, Tensor]:
        """Of `count` pictures, the looks in turn: the loss, and the share of things' patches read right."""
        parts = []
        for pool, kinds, colours in self.pools:
            rows = torch.randint(len(pool), (count // len(LOOKS),), generator=self.generator)
            parts.append((as_pixels(pool[rows.numpy()]), kinds[rows], colours[rows]))
        pixels, kinds, colours = (torch.cat(part) for part in zip(*parts, strict=True))
        loss, share = self.reader(pixels, kinds, colours)
        return loss, share


def train_vision(recipe: Recipe, work: Path) -> None:
    """Trains for the recipe's steps, resuming what lies in `work`, and leaves the reader's weights there."""
    settings, config, seed = recipe.vision, recipe.config.vision, recipe.work.seed
    world = World(load_sprites(work), config.image_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lessons = Lessons(recipe, world, SiglipTower(config), work)
    parameters = list(lessons.reader.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=0.0, betas=(0.9, 0.98), weight_decay=0.05)
    parts = {"reader": lessons.reader, "optimizer": optimizer}
    run = Run(work / CHECKPOINT, settings, parts, lessons.generator)
    shares: list[float] = []
    for step in run.steps():
        loss, share = lessons.loss(settings.batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        shares.append(share.item())
        if step % 200 == 0:
            print(f"step {step}: {np.mean(shares):.1%} of patches read right, {run.pace(step)}", flush=True)
            shares.clear()


def load_tower(config: VisionConfig, work: Path) -> SiglipTower:
    """The encoder that training left."""
    tower = SiglipTower(config)
    state = torch.load(work / CHECKPOINT, weights_only=True)["reader"]
    tower.load_state_dict({k.removeprefix("tower."): v for k, v in state.items() if k.startswith("tower.")})
    return tower


def labels(world: World, scenes: list[Scene], config: VisionConfig) -> tuple[Tensor, Tensor]:
    """Kinds and colours of each scene's patches, both (scenes, P); a patch shows the thing in its middle."""
    grid, patch = config.image_size // config.patch_size, config.patch_size
    middles = np.arange(grid) * patch + patch // 2
    kinds = np.zeros((len(scenes), grid, grid), np.int64)
    colours = np.full_like(kinds, NOTHING)
    for i, scene in enumerate(scenes):
        for thing in scene.things:
            left, top, right, bottom = thing.box
            inside = np.ix_((top <= middles) & (middles < bottom), (left <= middles) & (middles < right))
            kinds[i][inside] = 1 + world.names.index(thing.name)
            colours[i][inside] = 0 if thing.colour is None else 1 + world.colours.index(thing.colour)
    return torch.from_numpy(kinds).flatten(1), torch.from_numpy(colours).flatten(1)
