"""What the embedded model learns from: captions with codes of their pictures, questions with answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from janus.config import JanusConfig
from janus.data.language import caption, question
from janus.data.pool import scene_at
from janus.data.world import World
from janus.model import Batch
from janus.tokenizers.chat import answer_ids, drawing_prompt, unconditional, understanding_prompt
from janus.tokenizers.text import TextTokenizer
from janus.train.packing import Sample, collate
from janus.train.recipe import ModelRecipe

ROW = 256  # tokens of one row


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
        seeing: np.ndarray,
        redrawn: np.ndarray,
    ) -> None:
        self.config = config
        self.settings = settings
        self.tokenizer = tokenizer
        self.world = world
        self.seed = seed
        self.codes = codes
        self.seeing = seeing
        self.redrawn = redrawn  # the first drawings again, as the codes give them back

    def draw(self, rng: np.random.Generator) -> Sample:
        if rng.random() < self.settings.drawing_share:
            return self._drawing(rng)
        return self._question(rng)

    def _drawing(self, rng: np.random.Generator) -> Sample:
        index = int(rng.integers(len(self.codes)))
        scene = scene_at(self.world, "drawing", self.seed, index)
        ids = drawing_prompt(caption(scene, rng), self.tokenizer, self.config.prompt)
        if rng.random() < self.settings.drop_prompt:
            ids = unconditional(ids, self.tokenizer)
        codes = self.codes[index]
        ids = ids + [self.tokenizer.image_id] * len(codes)
        return Sample(ids, [], codes=torch.from_numpy(codes.astype(np.int64)))

    def _question(self, rng: np.random.Generator) -> Sample:
        own = rng.random() < self.settings.redrawn_share
        pool = self.redrawn if own else self.seeing
        index = int(rng.integers(len(pool)))
        scene = scene_at(self.world, "drawing" if own else "seeing", self.seed, index)
        turns: list[dict[str, Any]] = []
        ids: list[int] = []
        answers = []
        for _ in range(self.settings.turns):
            asked = question(scene, rng)
            turns.append({"role": "user", "content": asked.question, "images": [] if turns else [index]})
            ids = understanding_prompt(turns, self.tokenizer, self.config.prompt, self.config.vision.tokens)
            answers.append((len(ids), len(ids) + len(answer_ids(asked.answer, self.tokenizer))))
            ids = ids + answer_ids(asked.answer, self.tokenizer)
            turns.append({"role": "assistant", "content": asked.answer})
        return Sample(ids, answers, pixels=as_pixels(pool[index : index + 1]))


def batches(samples: Samples, tokens: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Batches of tokens / ROW rows, without end."""
    waiting: list[Sample] = []
    while True:
        rows = []
        for _ in range(tokens // ROW):
            row, room = [], ROW
            while True:
                sample = waiting.pop() if waiting else samples.draw(rng)
                if len(sample.ids) > room:
                    waiting.append(sample)
                    break
                row.append(sample)
                room -= len(sample.ids)
            rows.append(row)
        yield collate(rows, ROW, samples.tokenizer, samples.config.vq.tokens).batch


def as_pixels(pictures: np.ndarray) -> Tensor:
    """(N, S, S, 3) uint8 to (N, 3, S, S) in [-1, 1], what both image encoders take."""
    return torch.tensor(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
