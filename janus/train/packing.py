"""Samples, and the batches of packed rows that they fill.

A sample is one sequence: a text, a conversation about pictures, or a caption with the codes of its
picture.  Rows hold whole samples; `segments` keeps them apart (see `janus.model.Batch`).

Shapes: B rows, T tokens of a row, n pictures of a sample, S their side, K codes of a drawn picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from janus.model import Batch
from janus.tokenizers.image import VqTokenizer
from janus.tokenizers.text import TextTokenizer


@dataclass(frozen=True)
class Sample:
    """Tokens of one sequence.  Ids that stand for pictures or codes are the image placeholder's."""

    ids: Sequence[int]
    learn: Sequence[tuple[int, int]]  # from where to where the text loss asks for tokens
    pixels: Tensor | None = None  # (n, 3, S, S), prepared for understanding
    codes: Tensor | None = None  # (K,), standing for the last K ids ...
    drawing: Tensor | None = None  # ... or the picture to take them from, (3, S, S) in [-1, 1]
    weights: Tensor | None = None  # (K,) of the codes in the loss, 1 on average; without it all alike


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
    learn = torch.zeros(shape, dtype=torch.bool)
    image_slots, code_slots = torch.zeros_like(learn), torch.zeros_like(learn)
    for r, row in enumerate(rows):
        start = 0
        for number, sample in enumerate(row, start=1):
            end = start + len(sample.ids)
            ids[r, start:end] = torch.tensor(sample.ids)
            positions[r, start:end] = torch.arange(end - start)
            segments[r, start:end] = number
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
    even, unknown = torch.ones(codes), torch.zeros(codes, dtype=torch.long)
    batch = Batch(
        ids=ids,
        learn=learn,
        pixels=torch.cat(pixels) if pixels else None,
        image_slots=image_slots if pixels else None,
        codes=torch.stack([unknown if s.codes is None else s.codes for s in drawn]) if drawn else None,
        code_slots=code_slots if drawn else None,
        code_weights=torch.stack([even if s.weights is None else s.weights for s in drawn])
        if weighted
        else None,
        positions=positions,
        segments=segments,
    )
    lacking = tuple(i for i, s in enumerate(drawn) if s.drawing is not None)
    return Packed(batch, torch.stack(drawings) if drawings else None, lacking)
