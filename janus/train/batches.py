"""What the embedded model learns from: captions with codes of their pictures, questions with answers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from janus.config import JanusConfig
from janus.data.blocks import as_pixels
from janus.data.language import Answer, caption, question
from janus.data.pool import scene_at
from janus.data.world import Scene, World
from janus.model import Batch
from janus.tokenizers.chat import answer_ids, drawing_prompt, unconditional, understanding_prompt
from janus.tokenizers.text import TextTokenizer
from janus.train.naming import named
from janus.train.packing import Sample, collate, questions_apart
from janus.train.recipe import ModelRecipe
from janus.train.vision import labels

ROW = 320  # tokens of one row


class Samples:
    """Draws samples from both pools, described anew each time in other words."""

    def __init__(
        self,
        config: JanusConfig,
        settings: ModelRecipe,
        tokenizer: TextTokenizer,
        world: World,
        seed: int,
        codes: np.ndarray,
        weights: np.ndarray,
        seeing: np.ndarray,
        redrawn: np.ndarray,
    ) -> None:
        self.config = config
        self.settings = settings
        self.tokenizer = tokenizer
        self.world = world
        self.seed = seed
        self.codes = codes
        self.weights = weights  # of the codes in the loss
        self.seeing = seeing
        self.redrawn = redrawn  # the first drawings again, as the codes give them back

    def draw(self, rng: np.random.Generator, drawing_share: float) -> Sample:
        return self._drawing(rng) if rng.random() < drawing_share else self._question(rng)

    def _drawing(self, rng: np.random.Generator) -> Sample:
        index = int(rng.integers(len(self.codes)))
        scene = scene_at(self.world, "drawing", self.seed, index)
        ids = drawing_prompt(caption(scene, rng), self.tokenizer, self.config.prompt)
        if rng.random() < self.settings.drop_prompt:
            ids = unconditional(ids, self.tokenizer)
        codes = self.codes[index]
        ids = ids + [self.tokenizer.image_id] * len(codes)
        return Sample(
            ids,
            [],
            codes=torch.from_numpy(codes.astype(np.int64)),
            weights=torch.from_numpy(self.weights[index]),
        )

    def _question(self, rng: np.random.Generator) -> Sample:
        own = rng.random() < self.settings.redrawn_share
        pool = self.redrawn if own else self.seeing
        index = int(rng.integers(len(pool)))
        scene = scene_at(self.world, "drawing" if own else "seeing", self.seed, index)
        pixels, words = as_pixels(pool[index : index + 1]), self._words(scene)
        if rng.random() < self.settings.apart_share:
            asked = {(one.question, one.answer) for one in self._asked(scene, rng, self.settings.apart)}
            ids, learn, branches = questions_apart(sorted(asked), [index], self.tokenizer, self.config)
            return Sample(ids, learn, branches, pixels=pixels, words=words)
        turns: list[dict[str, Any]] = []
        ids, learn = [], []
        for one in self._asked(scene, rng, self.settings.turns):
            turns.append({"role": "user", "content": one.question, "images": [] if turns else [index]})
            ids = understanding_prompt(turns, self.tokenizer, self.config.prompt, self.config.vision.tokens)
            learn.append((len(ids), len(ids) + len(answer_ids(one.answer, self.tokenizer))))
            ids = ids + answer_ids(one.answer, self.tokenizer)
            turns.append({"role": "assistant", "content": one.answer})
        return Sample(ids, learn, pixels=pixels, words=words)

    @staticmethod
    def _asked(scene: Scene, rng: np.random.Generator, count: int) -> list[Answer]:
        return [question(scene, rng) for _ in range(count)]

    def _words(self, scene: Scene) -> Tensor:
        """Tokens that name what each patch of a scene's picture shows."""
        kinds, colours = labels(self.world, [scene], self.config.vision)
        phrases = []
        for kind, colour in zip(kinds[0].tolist(), colours[0].tolist(), strict=True):
            thing = [self.world.names[kind - 1]] if kind else []
            phrases.append(" ".join([self.world.colours[colour - 1], *thing] if colour > 0 else thing))
        return named(phrases, self.tokenizer)


def batches(samples: Samples, rng: np.random.Generator, step: int = 0) -> Iterator[Batch]:
    """The batches from this step on, without end; each has tokens / ROW rows."""
    settings = samples.settings
    waiting: list[Sample] = []
    for number in itertools.count(step):
        drawing_share = 1.0 if number < settings.only_drawing else settings.drawing_share
        rows = []
        for _ in range(settings.tokens // ROW):
            row, room = [], ROW
            while True:
                sample = waiting.pop() if waiting else samples.draw(rng, drawing_share)
                if len(sample.ids) > room:
                    waiting.append(sample)
                    break
                row.append(sample)
                room -= len(sample.ids)
            rows.append(row)
        yield collate(rows, ROW, samples.tokenizer, samples.config.vq.tokens).batch
