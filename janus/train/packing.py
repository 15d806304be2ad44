"""Samples, and the batches of packed rows that they fill.

A sample is one sequence: a text, a conversation about pictures, or a caption with the codes of its
picture.  Rows hold whole samples; `segments` keeps them apart (see `janus.model.Batch`).

Shapes: B rows, T tokens of a row, n pictures of a sample, S their side, K codes of a drawn picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from janus.config import JanusConfig
from janus.model import Batch
from janus.tokenizers.chat import answer_ids, understanding_prompt
from janus.tokenizers.image import VqTokenizer
from janus.tokenizers.text import TextTokenizer


@dataclass(frozen=True)
class Sample:
    """Tokens of one sequence.  Ids that stand for pictures or codes are the image placeholder's."""

    ids: Sequence[int]
    learn: Sequence[tuple[int, int]]  # from where to where the text loss asks for tokens
    branches: Sequence[tuple[int, int]] = ()  # ends of it, each of which could stand alone behind the rest
    pixels: Tensor | None = None  # (n, 3, S, S), prepared for understanding
    words: Tensor | None = None  # (n * P, W) tokens that name what each patch shows, -1 for none
    codes: Tensor | None = None  # (K,), standing for the last K ids ...
    drawing: Tensor | None = None  # ... or the picture to take them from, (3, S, S) in [-1, 1]
    weights: Tensor | None = None  # (K,) of the codes in the loss, 1 on average; without it all alike
    mentions: Sequence[tuple[int, Tensor]] = ()  # last tokens of what names a thing to draw, its codes (W,)
    looks: Sequence[tuple[int, int, int]] = ()  # level, token, a token that it should look at
    carried: Sequence[tuple[int, int, int]] = ()  # level, token, id of the token that it should carry along


def questions_apart(
    asked: Sequence[tuple[str, str]], images: Sequence[Any], tokenizer: TextTokenizer, config: JanusConfig
) -> tuple[list[int], list[tuple[int, int]], list[tuple[int, int]]]:
    """Ids of a sample of several questions about the same pictures, each of them as if asked alone.

    Returns what `Sample` calls ids, learn and branches; `asked` has questions with their answers.
    Raises ValueError where the chat template begins differently for different questions.
    """
    ids: list[int] = []
    learn, branches = [], []
    for question, answer in asked:
        message = {"role": "user", "content": question, "images": images}
        prompt = understanding_prompt([message], tokenizer, config.prompt, config.vision.tokens)
        shared = len(prompt) - prompt[::-1].index(tokenizer.image_id)
        ids = ids or prompt[:shared]
        if ids[:shared] != prompt[:shared]:
            raise ValueError("the checkpoint's chat template puts words before the pictures")
        start, said = len(ids), answer_ids(answer, tokenizer)
        ids = [*ids, *prompt[shared:], *said]
        learn.append((len(ids) - len(said), len(ids)))
        branches.append((start, len(ids)))
    return ids, learn, branches


@dataclass
class Packed:
    """A batch, and the pictures whose codes it still lacks."""

    batch: Batch
    drawings: Tensor | None = None  # (L, 3, S, S)
    lacking: tuple[int, ...] = ()  # which L of the batch's M drawn pictures they are

    def to(self, device: torch.device, vq: VqTokenizer) -> Batch:
        """The whole batch on the device that trains; `vq` turns the drawings into codes there."""
        values = {
            name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for name, value in vars(self.batch).items()
        }
        batch = Batch(**values)
        if self.drawings is not None:
            with torch.no_grad():
                weight = vq.quant_conv.weight
                parts = self.drawings.split(16)
                made = [vq.encode(part.to(weight.device, weight.dtype)) for part in parts]
                assert batch.codes is not None
                batch.codes = batch.codes.clone()
                batch.codes[list(self.lacking)] = torch.cat(made)
        return batch

    @property
    def tokens(self) -> int:
        """How many tokens and codes the losses ask for."""
        asked = [self.batch.learn, self.batch.code_slots]
        return sum(int(part.sum()) for part in asked if part is not None)


def collate(rows: Sequence[Sequence[Sample]], length: int, tokenizer: TextTokenizer, codes: int) -> Packed:
    """Rows of samples as one batch, padded to `length`; a drawn picture takes `codes` places."""
    shape = (len(rows), length)
    ids = torch.full(shape, tokenizer.pad_id)
    positions, segments = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    branches = torch.zeros_like(segments)
    learn = torch.zeros(shape, dtype=torch.bool)
    image_slots, code_slots, mentions = (torch.zeros_like(learn) for _ in range(3))
    looks: list[tuple[int, int, int, int]] = []
    carried: list[tuple[int, int, int, int]] = []
    for r, row in enumerate(rows):
        start = 0
        for number, sample in enumerate(row, start=1):
            end = start + len(sample.ids)
            ids[r, start:end] = torch.tensor(sample.ids)
            positions[r, start:end] = torch.arange(end - start)
            for branch, (first, last) in enumerate(sample.branches, start=1):
                branches[r, start + first : start + last] = branch
                positions[r, start + first : start + last] -= first - sample.branches[0][0]
            segments[r, start:end] = number
            for place, _ in sample.mentions:
                mentions[r, start + place] = True
            looks += [(level, r, start + place, start + at) for level, place, at in sample.looks]
            carried += [(level, r, start + place, token) for level, place, token in sample.carried]
            for first, last in sample.learn:
                learn[r, start + first : start + last] = True
            if sample.codes is not None or sample.drawing is not None:
                code_slots[r, end - codes : end] = True
            else:
                image_slots[r, start:end] = ids[r, start:end] == tokenizer.image_id
            start = end
    every = [sample for row in rows for sample in row]
    pixels = [s.pixels for s in every if s.pixels is not None]
    drawn = [s for s in every if s.codes is not None or s.drawing is not None]
    drawings = [s.drawing for s in drawn if s.drawing is not None]
    weighted = any(s.weights is not None for s in drawn)
    shown = _words([s for s in every if s.pixels is not None], tokenizer.image_id)
    drawn_as = [own for sample in every for _, own in sample.mentions]
    even, unknown = torch.ones(codes), torch.zeros(codes, dtype=torch.long)
    batch = Batch(
        ids=ids,
        learn=learn,
        pixels=torch.cat(pixels) if pixels else None,
        image_slots=image_slots if pixels else None,
        slot_words=shown,
        mentions=mentions if drawn_as else None,
        mention_codes=pad_sequence(drawn_as, batch_first=True, padding_value=-1) if drawn_as else None,
        codes=torch.stack([unknown if s.codes is None else s.codes for s in drawn]) if drawn else None,
        code_slots=code_slots if drawn else None,
        code_weights=torch.stack([even if s.weights is None else s.weights for s in drawn])
        if weighted
        else None,
        positions=positions,
        segments=segments,
        branches=branches if branches.any() else None,
        looks=torch.tensor(looks) if looks else None,
        carried=torch.tensor(carried) if carried else None,
    )
    lacking = tuple(i for i, s in enumerate(drawn) if s.drawing is not None)
    return Packed(batch, torch.stack(drawings) if drawings else None, lacking)


def _words(samples: Sequence[Sample], image_id: int) -> Tensor | None:
    """The words of all patches; -1 for those of samples that don't name theirs."""
    widths = {sample.words.shape[1] for sample in samples if sample.words is not None}
    if not widths:
        return None
    nothing = torch.full((1, widths.pop()), -1)
    return torch.cat(
        [nothing.repeat(list(s.ids).count(image_id), 1) if s.words is None else s.words for s in samples]
    )
