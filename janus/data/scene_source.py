"""Scenes of the embedded world as training data, composed when they are asked for."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from janus.data.art import WORK, load_sprites
from janus.data.blocks import Blocks
from janus.data.pointing import pointers
from janus.data.records import Carried, Kind, Picture, Pointer, Record, Repainted, Skipped
from janus.data.restyle import restyled, warped
from janus.data.scenes import Look, Scene, SceneMaker
from janus.data.subjects import SHARES
from janus.data.subjects import Kind as SceneKind
from janus.data.wording import KINDS, caption, letters, mentions, questions
from janus.tokenizers.chat import Message
from janus.tokenizers.image import VqTokenizer


@dataclass(frozen=True)
class ScenesRecipe:
    """Which scenes, and what they teach: to draw them, to answer questions about them, words alone, or which
    letters the options of their choices have, in words alone."""

    teach: Literal["drawing", "seeing", "words", "letters"]
    look: Look
    seed: int = 0
    count: int = 1_000_000  # scenes; they are only made when they are asked for
    tasks: tuple[
        SceneKind, ...
    ] = ()  # of tidy scenes, GenEval's tasks that they are made for; all, if none is named
    questions: int = 3  # about each picture, or letters of each choice
    asks: tuple[str, ...] = ()  # kinds of question (`janus.data.wording.KINDS`); all, if none is named
    apart: bool = False  # ask each of them by itself, not one after the other in a conversation
    blocks: bool = False  # codes to draw are those of each thing alone (see `janus.data.blocks`)
    name_weight: float = 1.0  # in the loss, of the codes that only a caption's words can tell; needs `blocks`
    repainted: bool = (
        False  # show each picture to draw in other colours too, for an image tokenizer with tones
    )
    redrawn: int = 0  # ask about so many tidy pictures as their blocks' codes give them back
    restyled: float = 0.0  # share of the pictures to see that are shown in styles of their own
    placed: bool = False  # what a patch shows (see `janus.train.naming`) is said with where it is

    def __post_init__(self) -> None:
        if self.look != "tidy" and (self.teach == "drawing" or self.redrawn):
            raise ValueError(f"only tidy scenes can be drawn; the look is {self.look!r}")
        if self.redrawn and self.teach != "seeing":
            raise ValueError(f"redrawn pictures are asked about; set teach: seeing, not {self.teach}")
        if not 0 <= self.restyled <= 1:
            raise ValueError(f"restyled must be a share from 0 to 1, not {self.restyled}")
        if self.restyled and (self.teach != "seeing" or self.redrawn):
            raise ValueError("restyled changes pictures to see, rendered ones; set teach: seeing, redrawn: 0")
        if self.repainted and self.teach != "drawing":
            raise ValueError(f"pictures to draw are repainted; set teach: drawing, not {self.teach}")
        if self.name_weight != 1 and not self.blocks:
            raise ValueError("name_weight tells the cells of blocks apart; set blocks: true")
        if self.apart and self.teach != "seeing":
            raise ValueError(f"only questions can be asked apart; set teach: seeing, not {self.teach}")
        if self.placed and self.teach != "seeing":
            raise ValueError(
                f"only pictures to see have patches with words; set teach: seeing, not {self.teach}"
            )
        if self.asks and self.teach in ("drawing", "letters"):
            raise ValueError(f"{self.teach} asks no such questions, leave out asks: {list(self.asks)}")
        if self.tasks and self.look != "tidy":
            raise ValueError(f"only tidy scenes are made for tasks; the look is {self.look!r}")
        if unknown := [task for task in self.tasks if task not in SHARES]:
            raise ValueError(f"unknown tasks {unknown}; there are {', '.join(SHARES)}")
        if strange := [kind for kind in self.asks if kind not in KINDS]:
            raise ValueError(f"unknown kinds of question {strange}; there are {', '.join(KINDS)}")
        if self.count < 1 or self.questions < 1:
            raise ValueError(f"count and questions must be at least 1, not {self.count} and {self.questions}")

    def task(self, number: int) -> SceneKind | None:
        """The task of the scene with this number; None leaves it to the scene."""
        if not self.tasks:
            return None
        shares = np.array([SHARES[task] for task in self.tasks])
        return self.tasks[
            np.random.default_rng((self.seed, number, 2)).choice(len(shares), p=shares / shares.sum())
        ]


@dataclass(frozen=True)
class _Rendered:
    """A picture of a scene that is not there yet."""

    maker: SceneMaker
    scene: Scene
    style: int | None = None  # seed of a style of its own: bent and, where no thing is painted, recoloured

    def load(self) -> Image.Image:
        pixels = self.maker.render(self.scene)
        if self.style is not None:
            generator = torch.Generator().manual_seed(self.style)
            other = warped(torch.tensor(pixels).permute(2, 0, 1)[None].float(), generator)
            if all(thing.colour is None for thing in self.scene.things):
                other = restyled(other, generator)
            pixels = other[0].round().byte().permute(1, 2, 0).numpy()
        return Image.fromarray(pixels)


@dataclass(frozen=True)
class _Made:
    pixels: np.ndarray  # (S, S, 3) uint8

    def load(self) -> Image.Image:
        return Image.fromarray(self.pixels)


def placed(words: Sequence[str]) -> tuple[str, ...]:
    """What each patch of a picture shows, rows first, with the edges whose third of the picture it is in.

    "red cup left top"; patches in the middle, and those that show nothing, stay as they are.
    """
    grid = math.isqrt(len(words))

    def where(place: int, first: str, last: str) -> str:
        return (first, "", last)[3 * (2 * place + 1) // (2 * grid)]  # by the patch's middle

    found = []
    for number, word in enumerate(words):
        row, column = divmod(number, grid)
        parts = (word, where(column, "left", "right"), where(row, "top", "bottom"))
        found.append(" ".join(part for part in parts if part) if word else "")
    return tuple(found)


def _turns(asked: Sequence[tuple[str, str]], images: Sequence[Picture] = ()) -> tuple[Message, ...]:
    """A conversation of questions with their answers, about the pictures of the first."""
    messages: list[Message] = []
    for question, answer in asked:
        messages.append({"role": "user", "content": question, "images": [] if messages else list(images)})
        messages.append({"role": "assistant", "content": answer})
    return tuple(messages)


class SceneSource:
    """Scenes as records (see `janus.data.records.Records`): the same at the same number, always.

    `tokenizer` codes what is to be drawn.  With `patch`, a side in pixels, records say what each patch of a
    picture shows; with `pointing`, where words should look (`janus.data.pointing`).  Raises ValueError where
    the patches' grid does not fit the scenes.
    """

    def __init__(
        self,
        recipe: ScenesRecipe,
        tokenizer: VqTokenizer,
        patch: int | None = None,
        work: Path = WORK,
        pointing: bool = False,
    ) -> None:
        self.recipe = recipe
        self.patch, self.pointing = patch, pointing
        self.unusable = Skipped()
        self.maker = SceneMaker(load_sprites(work), tokenizer.config.image_size)
        self._blocks: Blocks | None = None
        if recipe.blocks or recipe.redrawn or recipe.repainted:
            self._blocks = Blocks(self.maker, copy.deepcopy(tokenizer).cpu().float().eval())
        self._redrawn = self._draw_again(recipe.redrawn)

    @property
    def kinds(self) -> frozenset[Kind]:
        return frozenset([self._kind])

    @property
    def _kind(self) -> Kind:
        kinds: dict[str, Kind] = {"drawing": "generation", "seeing": "understanding"}
        return kinds.get(self.recipe.teach, "text")

    def of_kind(self, kind: Kind) -> np.ndarray:
        return np.arange(len(self) if kind == self._kind else 0)

    def __len__(self) -> int:
        return self.recipe.count

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"there is no scene {index}; scenes are 0 to {len(self) - 1}")
        recipe = self.recipe
        number = index % recipe.redrawn if recipe.redrawn else index
        scene = self.maker.at(recipe.look, recipe.seed, number, recipe.task(number))
        name = f"{recipe.look} scene {index} of seed {recipe.seed}"
        rng = np.random.default_rng((recipe.seed, index, 1))
        if recipe.teach == "drawing":
            return self._drawing(name, scene, rng)
        if recipe.teach == "letters":
            return self._letters(name, scene, rng)
        asked = questions(scene, rng, recipe.questions, recipe.asks)
        if recipe.teach == "words":
            lines = [caption(scene, rng), *(f"{one.question} {one.answer}" for one in asked)]
            return Record(name, "text", text="\n".join(lines))
        style = int(rng.integers(2**63)) if recipe.restyled and rng.random() < recipe.restyled else None
        shown = _Made(self._redrawn[number]) if recipe.redrawn else _Rendered(self.maker, scene, style)
        messages = _turns([(one.question, one.answer) for one in asked], [shown])
        words: tuple[str, ...] = ()
        looks: tuple[Pointer, ...] = ()
        carried: tuple[Carried, ...] = ()
        if self.patch is not None:
            things = self.maker.patches(scene, self.patch)
            if self.pointing:
                looks, carried = pointers(scene, messages, things)
            words = tuple("" if thing is None else thing.words for thing in things)
            if recipe.placed:
                words = placed(words)
        return Record(
            name,
            "understanding",
            messages=messages,
            images=(shown,),
            shown=words,
            apart=recipe.apart,
            pointers=looks,
            carried=carried,
        )

    def _letters(self, name: str, scene: Scene, rng: np.random.Generator) -> Record:
        messages = _turns(letters(scene, rng, self.recipe.questions))
        looks, carried = pointers(scene, messages) if self.pointing else ((), ())
        return Record(name, "text", messages=messages, pointers=looks, carried=carried)

    def _drawing(self, name: str, scene: Scene, rng: np.random.Generator) -> Record:
        picture = _Rendered(self.maker, scene)
        words = caption(scene, rng)
        repainted = None
        if self.recipe.repainted and self._blocks is not None:
            other = _Rendered(self.maker, self.maker.repainted(scene, rng))
            repainted = Repainted(other, self._blocks.tones(scene))
        if not self.recipe.blocks or self._blocks is None:
            return Record(name, "generation", words, images=(picture,), repainted=repainted)
        codes = self._blocks.codes(scene)
        weights = self._blocks.weights(scene, self.recipe.name_weight)
        named = tuple((end, self._blocks.of(thing)) for end, thing in mentions(words, scene))
        return Record(
            name,
            "generation",
            words,
            images=(picture,),
            codes=codes,
            weights=weights,
            mentions=named,
            repainted=repainted,
        )

    @torch.inference_mode()
    def _draw_again(self, count: int) -> np.ndarray:
        """The first scenes as their codes give them back, (count, S, S, 3) uint8."""
        if self._blocks is None or not count:
            return np.zeros((0, 1, 1, 3), np.uint8)
        parts = []
        for start in range(0, count, 64):
            numbers = range(start, min(start + 64, count))
            scenes = [self.maker.at("tidy", self.recipe.seed, i, self.recipe.task(i)) for i in numbers]
            codes = torch.from_numpy(np.stack([self._blocks.codes(scene) for scene in scenes]))
            made = (self._blocks.tokenizer.decode(codes) + 1) * 127.5
            parts.append(made.clamp(0, 255).byte().permute(0, 2, 3, 1).numpy())
        return np.concatenate(parts)
