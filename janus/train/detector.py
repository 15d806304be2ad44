"""Trains the scene judge: a detector of the eighty classes, on scenes of its own.

    python -m janus.train.detector recipes/judge.yaml

The run goes on where it was stopped.  At its end the judge is measured (`janus.train.detector_check`), and
its weights and figures are in the folder `judge` of the run.

Shapes: N pictures, S their side, G = S / 4 cells along a side, C classes, K things.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from janus.config import dataclass_from_dict
from janus.data.art import Sprite, load_sprites
from janus.data.scenes import Look, Scene, SceneMaker
from janus.data.subjects import NAMES
from janus.eval.finder import CELL, Finder, FinderConfig, Maps
from janus.eval.judge import Certainty, SceneJudge
from janus.train import results
from janus.train.damage import Box, blotched, damaged, spoiled
from janus.train.detector_check import card, chosen, figures_of
from janus.train.loader import Step
from janus.train.parallel import Parallel
from janus.train.plan import read_recipe
from janus.train.run import Run
from janus.train.state import State

CHOSEN_ON = 2000  # the seed of the scenes that the thresholds are chosen on
JUDGE = "judge"  # the result's folder in that of the run
_FREE = {"out", "steps", "keep_every", "workers", "checked"}
_SPREAD = 0.13  # of a thing's width and height: the bell curve that its middle is on the map
_NEAR = 0.3  # where the curve is above it, a cell learns of the thing
LOSSES = ("middle", "kind", "box")


@dataclass(frozen=True)
class DetectorRecipe:
    """A run that trains a detector on scenes of the embedded world."""

    out: str  # folder of the run
    steps: int
    config: FinderConfig = field(default_factory=FinderConfig)
    looks: tuple[Look, ...] = ("tidy", "varied")  # of the scenes, in turn
    batch: int = 32  # pictures
    learning_rate: float = 2e-3
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup: int = 300  # steps
    weight_decay: float = 0.05
    clip: float = 10.0  # largest norm of the gradient
    precision: Literal["float32", "bfloat16"] = "bfloat16"  # of the computation
    damage: float = 0.7  # of the pictures
    spoil: float = 0.25  # of the pictures, in which one thing is made into none
    empty: float = 0.05  # of the pictures, which show a background, or blotches on it
    held_out: float = 0.1  # of the tidy scenes: combinations that the model never sees, and is scored on
    keep_every: int = 500
    seed: int = 1000  # far from those that the model trains on and is scored on
    workers: int = 1  # processes that compose pictures
    checked: int = 200  # pictures of each kind that the judge is measured on

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "keep_every", "checked"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.looks or set(self.looks) - {"tidy", "varied"}:
            raise ValueError(f"looks must be tidy, varied or both, not {list(self.looks)}")
        if self.config.classes != len(NAMES):
            raise ValueError(f"the world has {len(NAMES)} classes, not {self.config.classes}")
        if self.seed < 1000:
            raise ValueError(
                f"seeds below 1000 are the model's; the judge's scenes are others, not seed {self.seed}"
            )


class Targets(NamedTuple):
    """What the maps of one picture, or of N, should say."""

    middle: Tensor  # (G, G): 1 where a thing's middle is, falling off like a bell around it
    weight: Tensor  # (G, G): how much a cell learns of the thing near to it, 0 for none
    kind: Tensor  # (G, G) int64
    place: Tensor  # (2, G, G), as in `Maps`
    extent: Tensor  # (2, G, G), as in `Maps`


def targets(boxes: np.ndarray, kinds: np.ndarray, size: int) -> Targets:
    """Of things with boxes (K, 4) in pixels and kinds (K,), in painting order, in a picture of `size` pixels.

    Where two curves meet, a cell learns of the thing whose curve is higher, in a tie of the upper one.
    """
    grid = size // CELL
    along = np.arange(grid) + 0.5
    middle = np.zeros((grid, grid), np.float32)
    owner = np.zeros((grid, grid), np.int64)
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4) / CELL
    middles, extents = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    for i, (centre, extent) in enumerate(zip(middles, extents, strict=True)):
        cell = np.floor(centre).clip(0, grid - 1) + 0.5  # whose middle is the top of the curve
        spread = np.maximum(_SPREAD * extent, 0.3)
        across, down = (np.square((along - c) / s) / 2 for c, s in zip(cell, spread, strict=True))
        curve = np.exp(-(down[:, None] + across)).astype(np.float32)
        owner[curve >= middle] = i
        middle = np.maximum(middle, curve)
    weight = np.where(middle > _NEAR, middle, 0)
    if not len(boxes):
        return _tensors(middle, weight, owner, np.zeros((2, grid, grid)), np.zeros((2, grid, grid)))
    cells = np.stack(np.meshgrid(along, along, indexing="xy"))  # (2, G, G): across, down
    place = middles[owner].transpose(2, 0, 1) - cells
    extent = np.log(extents[owner].transpose(2, 0, 1))
    return _tensors(middle, weight, np.asarray(kinds)[owner], place, extent)


def _tensors(
    middle: np.ndarray, weight: np.ndarray, kind: np.ndarray, place: np.ndarray, extent: np.ndarray
) -> Targets:
    floats = [torch.from_numpy(values.astype(np.float32)) for values in (middle, weight, place, extent)]
    return Targets(floats[0], floats[1], torch.from_numpy(kind.astype(np.int64)), floats[2], floats[3])


def losses(maps: Maps, wanted: Targets) -> Tensor:
    """What training lowers the sum of, (3,): for middles, classes and boxes, each about one thing.

    Middles: the focal loss of CornerNet (arXiv 1808.01244, equation 1).  Classes: cross entropy.  Boxes:
    absolute errors of the middle, in parts of the thing's extent, and of the logarithm of that.
    """
    chance, log = maps.middle.float().sigmoid(), F.logsigmoid
    missed = (1 - chance).square() * -log(maps.middle.float())
    false = (1 - wanted.middle).pow(4) * chance.square() * -log(-maps.middle.float())
    top = wanted.middle == 1
    middle = torch.where(top, missed, false).sum() / top.sum().clamp(min=1)
    weight = wanted.weight / wanted.weight.sum().clamp(min=1)
    kind = (F.cross_entropy(maps.kind.float(), wanted.kind, reduction="none") * weight).sum()
    off = (maps.place.float() - wanted.place).abs() / wanted.extent.exp()
    grown = (maps.extent.float() - wanted.extent).abs()
    return torch.stack([middle, kind, ((off + grown).sum(1) * weight).sum()])


class Scenes(Dataset[tuple[Tensor, Targets]]):
    """Pictures (3, S, S) uint8 with their targets, by number: always the same ones."""

    def __init__(self, recipe: DetectorRecipe, maker: SceneMaker) -> None:
        self.recipe, self.maker = recipe, maker

    def __len__(self) -> int:
        return self.recipe.steps * self.recipe.batch

    def __getitem__(self, index: int) -> tuple[Tensor, Targets]:
        picture, things = self.picture(index)
        boxes = np.array([box for _, box in things]).reshape(-1, 4)
        kinds = np.array([NAMES.index(name) for name, _ in things], np.int64)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        return pixels, targets(boxes, kinds, self.maker.size)

    def picture(self, index: int) -> tuple[np.ndarray, list[tuple[str, Box]]]:
        """Pixels (S, S, 3) uint8 and the things in it, damaged and spoiled as the recipe has it."""
        recipe, rng = self.recipe, np.random.default_rng((self.recipe.seed, index, 7))
        scene = self._scene(index, rng)
        if rng.random() < recipe.empty:
            picture, things = self.maker.render(replace(scene, things=())), []
            picture = blotched(picture, rng) if rng.random() < 0.7 else picture
        else:
            picture = self.maker.render(scene)
            things = [(thing.name, thing.box) for thing in scene.things]
        if things and rng.random() < recipe.spoil:
            alone = [i for i, (_, box) in enumerate(things) if not _touched(i, things)]
            if alone:
                which = alone[int(rng.integers(len(alone)))]
                picture = spoiled(picture, things.pop(which)[1], rng)
        return (damaged(picture, rng) if rng.random() < recipe.damage else picture), things

    def _scene(self, index: int, rng: np.random.Generator) -> Scene:
        looks = self.recipe.looks
        look = looks[index % len(looks)]
        if look != "tidy" or rng.random() >= self.recipe.held_out:
            return self.maker.at(look, self.recipe.seed, index // len(looks))
        return self.maker.make("tidy", rng, held_out=True)


def _touched(which: int, things: list[tuple[str, Box]]) -> bool:
    """Whether the box of one thing overlaps that of another."""
    left, top, right, bottom = things[which][1]
    others = [box for i, (_, box) in enumerate(things) if i != which]
    return any(l < right and left < r and t < bottom and top < b for l, t, r, b in others)


def train_detector(recipe: DetectorRecipe, sprites: list[Sprite] | None = None) -> Path:
    """Run a recipe to its end, going on from the last state in its folder; returns the folder of the judge.

    sprites: the drawings, those of the world unless others are given.
    Raises ValueError for a folder with another run in it.
    """
    if sprites is None:
        sprites = load_sprites()
    return _DetectorRun(recipe, SceneMaker(sprites, recipe.config.size), Parallel("cpu")).go()


class _DetectorRun(Run[tuple[Tensor, Targets]]):
    """Everything of one run, set up by the recipe and taken from its last state."""

    def __init__(self, recipe: DetectorRecipe, maker: SceneMaker, parallel: Parallel) -> None:
        super().__init__(recipe, dataclasses.asdict(recipe), _FREE, parallel)
        self.recipe, self.maker, self.target = recipe, maker, self.folder / JUDGE
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.finder = Finder(recipe.config)
        groups = [
            {
                "params": [p for p in self.finder.parameters() if p.ndim >= 2],
                "weight_decay": recipe.weight_decay,
            },
            {"params": [p for p in self.finder.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=0.0)
        self.state = State(self.folder, self.finder, self.optimizer, None, parallel)
        self.columns = ["loss", *LOSSES, "gradient", "learning rate", "pictures/s"]
        self.seen = {"pictures": 0}
        self.resume()
        self.loader = self._batches()
        self._begin_window()

    def _batches(self) -> Iterator[Step[tuple[Tensor, Targets]]]:
        """Those of the steps that are left."""
        recipe = self.recipe
        starts = range(self.step * recipe.batch, recipe.steps * recipe.batch, recipe.batch)
        numbers = [list(range(start, start + recipe.batch)) for start in starts]
        scenes = Scenes(recipe, self.maker)
        for pixels, wanted in DataLoader(scenes, batch_sampler=numbers, num_workers=recipe.workers):
            yield Step([(pixels, Targets(*wanted))], {})

    def _begin_window(self) -> None:
        """Begin to sum what the next row of the log tells."""
        self._sums, self._steps, self._gradient = torch.zeros(len(LOSSES)), 0, 0.0

    def learn(self, step: Step[tuple[Tensor, Targets]]) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        pixels, wanted = step.batches[0]
        pixels = (pixels / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.precision == "bfloat16"):
            maps = self.finder(pixels)
        parts = losses(maps, wanted)
        self.optimizer.zero_grad()
        parts.sum().backward()
        self._gradient = float(torch.nn.utils.clip_grad_norm_(self.finder.parameters(), self.recipe.clip))
        self.optimizer.step()
        self.seen["pictures"] += len(pixels)
        self._sums += parts.detach()
        self._steps += 1

    def report(self, seconds: float) -> dict[str, float]:
        parts = dict(zip(LOSSES, (self._sums / self._steps).tolist(), strict=True))
        values = {"loss": sum(parts.values())} | parts | {"gradient": self._gradient}
        values |= {"learning rate": self.rate, "pictures/s": self.recipe.batch / seconds}
        self._begin_window()
        return values

    def finish(self, scores: dict[str, float]) -> Path:
        """Round the weights, choose the thresholds, measure, and write it all down."""
        judge = SceneJudge(self.finder, Certainty(0.3, 0.9), NAMES)  # tells scores as they are
        judge.save(self.target)
        judge = SceneJudge.from_pretrained(self.target)  # with the weights as they are kept
        chosen_on = Scenes(replace(self.recipe, seed=CHOSEN_ON), self.maker)
        made = [chosen_on.picture(i) for i in range(4 * self.recipe.checked)]
        pictures = [Image.fromarray(picture) for picture, _ in made]
        judge.certainty = chosen(judge.detect(pictures), [things for _, things in made])
        figures = figures_of(judge, self.maker, self.recipe.checked)
        judge.figures = {**figures}
        judge.save(self.target)
        (self.target / results.CARD).write_text(card(figures), encoding="utf-8")
        return self.target


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m janus.train.detector", description="Train the scene judge."
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change the recipe")
    options = parser.parse_args()
    _, values = read_recipe(options.recipe, options.set)
    print(train_detector(dataclass_from_dict(DetectorRecipe, values, options.recipe.name)))


if __name__ == "__main__":
    main()
