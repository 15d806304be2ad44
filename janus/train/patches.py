"""Teaches a vision encoder to say, patch by patch, which thing of a scene is there, and in which colour.

Answers to questions alone teach an encoder without any pretraining too slowly: a short answer is little
to learn from.  Here every patch has its own.  Only the encoder is kept; the two small heads are not.

Shapes: N pictures, P patches of one, S its side.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from janus.checkpoints.files import InMemory, load_part
from janus.checkpoints.writing import new_folder, write, write_json
from janus.config import VisionConfig
from janus.data.art import load_sprites
from janus.data.restyle import restyled
from janus.data.scenes import COLOURS, NAMES, Look, Scene, SceneMaker
from janus.encoders.siglip import SiglipTower
from janus.train import results
from janus.train.canvas import NOTHING, Canvas
from janus.train.loader import Step
from janus.train.parallel import Parallel
from janus.train.perceptual import pretrained
from janus.train.run import Run
from janus.train.state import State

_PREFIX = "vision_model."
VISION = "vision"  # the kind of recipe here, and the result's folder in that of the run
_TAUGHT = (3, 4)  # depths of the teacher: a sixteenth and a 32nd of its picture's side
_CHANNELS = 112 + 320  # of these depths
_TAUGHT_SHARE = 4  # one picture in so many: the teacher costs more than the encoder
_FREE = {"out", "steps", "keep_every", "workers"}


@dataclass(frozen=True)
class VisionRecipe:
    """A run that trains a vision encoder on scenes of the embedded world."""

    out: str  # folder of the run: its state, logs and, at the end, the encoder
    config: VisionConfig
    looks: tuple[Look, ...]  # of the scenes, in turn
    steps: int
    batch: int = 32  # pictures
    distil: float = 0.0  # weight of the loss that asks a quarter of them for EfficientNet-Lite0's features
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup: int = 150  # steps
    weight_decay: float = 0.05
    clip: float = 1.0  # largest norm of the gradient
    precision: Literal["float32", "bfloat16"] = "bfloat16"  # of the computation
    keep_every: int = 500  # steps between states to go on from
    seed: int = 0
    workers: int = 1  # processes that compose pictures
    on_device: bool = False  # draw the scenes where the encoder is trained, in batches
    restyled: float = 0.0  # share of these pictures whose style is changed at random; needs on_device
    model: str | None = None  # the encoder it begins with, as an earlier run left it; none: untrained

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "keep_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.distil < 0:
            raise ValueError(f"distil must be at least 0, not {self.distil}")
        if not self.looks:
            raise ValueError("looks is empty; name tidy, varied or both")
        if self.on_device and (others := set(self.looks) - {"tidy", "varied"}):
            raise ValueError(f"on_device draws tidy and varied scenes, not {', '.join(sorted(others))}")
        if not 0 <= self.restyled <= 1:
            raise ValueError(f"restyled must be a share from 0 to 1, not {self.restyled}")
        if self.restyled and not self.on_device:
            raise ValueError(
                f"restyled is {self.restyled}, which needs on_device: true; otherwise leave it 0"
            )


class PatchReader(nn.Module):
    """An encoder with a head for kinds (0 is background) and one for colours (0 is the thing's own).

    With `distil` there is a third, for the features that a network trained on photographs has of each patch:
    what it knows of things carries over to art styles that training never saw.
    """

    def __init__(self, tower: SiglipTower, distil: float = 0.0) -> None:
        super().__init__()
        self.vision_model = tower
        self.kind = nn.Linear(tower.config.width, len(NAMES) + 1)
        self.colour = nn.Linear(tower.config.width, len(COLOURS) + 1)
        self.distil = distil
        if distil:
            self.teacher = [pretrained(_TAUGHT)]  # in a list: not a part of what is trained and kept
            self.taught = nn.Linear(tower.config.width, _CHANNELS)
            for parameter in self.taught.parameters():
                nn.init.zeros_(parameter)

    def forward(self, pixels: Tensor, kinds: Tensor, colours: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (N, 3, S, S) and labels (N, P) to the loss and the share of things' patches read right."""
        features = self.vision_model(pixels)
        kind, colour = self.kind(features).transpose(1, 2), self.colour(features).transpose(1, 2)
        coloured = (colours != NOTHING).sum().clamp(min=1)  # there may be none
        missed = F.cross_entropy(colour, colours, ignore_index=NOTHING, reduction="sum")
        loss = F.cross_entropy(kind, kinds) + missed / coloured
        if self.distil:
            few = -(-len(pixels) // _TAUGHT_SHARE)
            with torch.no_grad():
                wanted = self.teach(pixels[:few])
            loss = loss + self.distil * (self.taught(features[:few]) - wanted).square().sum(-1).mean()
        shown = kinds > 0
        right = (kind.argmax(1) == kinds) & ((colour.argmax(1) == colours) | (colours == NOTHING)) & shown
        return loss, right.sum() / shown.sum()

    def teach(self, pixels: Tensor) -> Tensor:
        """The teacher's features of each patch, (N, P, depths' channels), of unit length for each depth."""
        config = self.vision_model.config
        grid = config.image_size // config.patch_size
        side = grid * 2 ** (_TAUGHT[0] + 1)  # so that the first depth has one vector for each patch
        larger = F.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True)
        levels = self.teacher[0].to(pixels.device).features(larger)
        even = [F.interpolate(level, size=(grid, grid), mode="bilinear") for level in levels]
        return torch.cat(even, dim=1).flatten(2).transpose(1, 2)


class _Scenes(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Pictures (3, S, S) uint8 with their patches' labels, by number; the looks take turns."""

    def __init__(self, recipe: VisionRecipe) -> None:
        self.recipe = recipe
        self.maker = SceneMaker(load_sprites(), recipe.config.image_size)

    def __len__(self) -> int:
        return self.recipe.steps * self.recipe.batch

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        looks = self.recipe.looks
        scene = self.maker.at(looks[index % len(looks)], self.recipe.seed, index // len(looks))
        pixels = torch.tensor(self.maker.render(scene)).permute(2, 0, 1)
        return pixels, *labels(self.maker, scene, self.recipe.config.patch_size)


def labels(maker: SceneMaker, scene: Scene, patch: int) -> tuple[Tensor, Tensor]:
    """Kinds and colours of what a scene's patches show, both (P,)."""
    things = maker.patches(scene, patch)
    kinds = torch.zeros(len(things), dtype=torch.long)
    colours = torch.full_like(kinds, NOTHING)
    for place, thing in enumerate(things):
        if thing is not None:
            kinds[place] = 1 + NAMES.index(thing.name)
            colours[place] = 0 if thing.colour is None else 1 + COLOURS.index(thing.colour)
    return kinds, colours


def drawn(canvas: Canvas, recipe: VisionRecipe, step: int) -> list[Tensor]:
    """A step's pictures (N, 3, S, S), from 0 to 255, with their patches' labels; the looks take turns.

    They depend on the recipe and the step's number alone.  Those restyled teach nothing about colours.
    """
    rng = np.random.default_rng((recipe.seed, step))
    generator = torch.Generator(canvas.device).manual_seed(int(rng.integers(2**63)))
    numbers = step * recipe.batch + np.arange(recipe.batch)
    looks = np.array(recipe.looks)[numbers % len(recipe.looks)]
    places, parts = [], []
    for look in dict.fromkeys(recipe.looks):
        places.append(np.flatnonzero(looks == look))
        parts.append(canvas.draw(len(places[-1]), generator, look))
    order = torch.tensor(np.concatenate(places).argsort(), device=canvas.device)
    pixels, kinds, colours = (torch.cat(part)[order] for part in zip(*parts, strict=True))
    changed = np.flatnonzero(rng.random(recipe.batch) < recipe.restyled)
    if len(changed):
        rows = torch.tensor(changed, device=canvas.device)
        pixels[rows] = restyled(pixels[rows], generator)
        colours[rows] = NOTHING
    return [pixels, kinds, colours]


def train_vision(recipe: VisionRecipe, device: str | None = None) -> Path:
    """Run a recipe to its end, going on from the last state in its folder; returns the folder it wrote.

    Raises ValueError for a folder with another run in it, and under `torchrun`: it uses one device.
    """
    parallel = Parallel(device)
    try:
        if parallel.world > 1:
            raise ValueError("a vision encoder is trained on one device; run it without torchrun")
        return _VisionRun(recipe, parallel).go()
    finally:
        parallel.end()


def _tower(recipe: VisionRecipe) -> SiglipTower:
    """The encoder before the first step.  Raises ValueError for one that cannot be read or does not fit."""
    tower = SiglipTower(recipe.config)
    if recipe.model is not None:
        load_part(tower, recipe.model, _PREFIX)
    return tower


class _VisionRun(Run[list[Tensor]]):
    """Everything of one run, set up by the recipe and taken from its last state."""

    def __init__(self, recipe: VisionRecipe, parallel: Parallel) -> None:
        super().__init__(recipe, dataclasses.asdict(recipe), _FREE, parallel)
        self.recipe, self.target = recipe, self.folder / VISION
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.reader = PatchReader(_tower(recipe), recipe.distil).to(parallel.device)
        self.columns = ["loss", "patches right", "gradient", "learning rate", "pictures/s"]
        # Janus never runs the pooling head
        learning = [p for name, p in self.reader.named_parameters() if "attn_pool" not in name]
        groups = [
            {"params": [p for p in learning if p.ndim >= 2], "weight_decay": recipe.weight_decay},
            {"params": [p for p in learning if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98))
        self.state = State(self.folder, self.reader, self.optimizer, None, parallel)
        self.seen = {"pictures": 0}
        self.resume()
        self.loader = self._batches()
        self._begin_window()

    def _batches(self) -> Iterator[Step[list[Tensor]]]:
        """Those of the steps that are left."""
        recipe = self.recipe
        if recipe.on_device:
            config = recipe.config
            maker = SceneMaker(load_sprites(), config.image_size)
            canvas = Canvas(maker, self.parallel.device, config.patch_size)
            for step in range(self.step, recipe.steps):
                yield Step([drawn(canvas, recipe, step)], {})
            return
        starts = range(self.step * recipe.batch, recipe.steps * recipe.batch, recipe.batch)
        numbers = [list(range(start, start + recipe.batch)) for start in starts]
        for batch in DataLoader(_Scenes(recipe), batch_sampler=numbers, num_workers=recipe.workers):
            yield Step([batch], {})

    def _begin_window(self) -> None:
        """Begin to sum what the next row of the log tells."""
        self._sums, self._steps = torch.zeros(2, device=self.parallel.device), 0
        self._gradient = torch.zeros(())

    def learn(self, step: Step[list[Tensor]]) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        pixels, kinds, colours = (part.to(self.parallel.device) for part in step.batches[0])
        bfloat16 = self.recipe.precision == "bfloat16"
        with torch.autocast(self.parallel.device.type, torch.bfloat16, enabled=bfloat16):
            loss, right = self.reader(pixels / 127.5 - 1, kinds, colours)
        self.optimizer.zero_grad()
        loss.backward()
        self._gradient = torch.nn.utils.clip_grad_norm_(self.reader.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.seen["pictures"] += len(pixels)
        self._sums += torch.stack([loss.detach(), right])  # told by `report`: a look now would wait
        self._steps += 1

    def report(self, seconds: float) -> dict[str, float]:
        loss, right = (self._sums / self._steps).tolist()
        values = {"loss": loss, "patches right": right, "gradient": float(self._gradient)}
        values |= {"learning rate": self.rate, "pictures/s": self.recipe.batch / seconds}
        self._begin_window()
        return values

    def finish(self, scores: dict[str, float]) -> Path:
        """Write the encoder, its weights under their names in a whole model."""
        tower = self.reader.vision_model.state_dict()
        if self.target.exists():
            shutil.rmtree(self.target)
        with new_folder(self.target) as partial:
            write(partial, InMemory({f"{_PREFIX}{name}": value.cpu() for name, value in tower.items()}))
            write_json(partial / "config.json", {"vision": dataclasses.asdict(self.recipe.config)})
            records = [(f"{look} scenes", self.seen["pictures"], "see NOTICE") for look in self.recipe.looks]
            card = results.model_card(self.recipe, records, self.seen, scores)
            (partial / results.CARD).write_text(card, encoding="utf-8")
        self.tell(f"written: {self.target}")
        return self.target
