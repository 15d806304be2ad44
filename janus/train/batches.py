"""Samples and the packed batches that they fill.

A sample is a caption with the codes of its picture, or a picture with a question and its answer.
Rows are filled with whole samples; `segments` keeps them apart (see `janus.model.Batch`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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
from janus.train.recipe import ModelRecipe

ROW = 256  # tokens of one row


@dataclass(frozen=True)
class Sample:
    """Tokens of one sample; `codes` for a drawing, `picture` for a question, never both."""

    ids: list[int]
    answers: list[tuple[int, int]]  # where the text tokens begin and end that the loss asks for
    codes: np.ndarray | None = None  # (K,), standing for the last K ids
    picture: np.ndarray | None = None  # (S, S, 3) uint8, standing for the image placeholders


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
        return Sample(ids, [], codes=codes)

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
        return Sample(ids, answers, picture=pool[index])


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
        yield collate(rows, ROW, samples.tokenizer)


def collate(rows: list[list[Sample]], length: int, tokenizer: TextTokenizer) -> Batch:
    """One batch of packed rows, padded to `length`."""
    shape = (len(rows), length)
    ids = torch.full(shape, tokenizer.pad_id)
    positions, segments = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    learn = torch.zeros(shape, dtype=torch.bool)
    image_slots, code_slots = torch.zeros_like(learn), torch.zeros_like(learn)
    for r, row in enumerate(rows):
        start = 0
        for number, sample in enumerate(row, start=1):
            end = start + len(sample.ids)
            ids[r, start:end] = torch.tensor(sample.ids)
            positions[r, start:end] = torch.arange(end - start)
            segments[r, start:end] = number
            for first, last in sample.answers:
                learn[r, start + first : start + last] = True
            if sample.codes is not None:
                code_slots[r, end - len(sample.codes) : end] = True
            else:
                image_slots[r, start:end] = ids[r, start:end] == tokenizer.image_id
            start = end
    every = [sample for row in rows for sample in row]
    codes = [torch.from_numpy(s.codes.astype(np.int64)) for s in every if s.codes is not None]
    pictures = [s.picture for s in every if s.picture is not None]
    return Batch(
        ids=ids,
        learn=learn,
        pixels=as_pixels(np.stack(pictures)) if pictures else None,
        image_slots=image_slots if pictures else None,
        codes=torch.stack(codes) if codes else None,
        code_slots=code_slots if codes else None,
        positions=positions,
        segments=segments,
    )


def as_pixels(pictures: np.ndarray) -> Tensor:
    """(N, S, S, 3) uint8 to (N, 3, S, S) in [-1, 1], what both image encoders take."""
    return torch.tensor(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
