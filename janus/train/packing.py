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
    weights: Tensor | None = None  # (K,) of the codes in the loss; of all samples with codes or of none


@dataclass
class Packed:
    """A batch, and the pictures whose codes it still lacks."""

    batch: Batch
    drawings: Tensor | None = None  # (M, 3, S, S)

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
                batch.codes = torch.cat([vq.encode(part.to(weight.device, weight.dtype)) for part in parts])
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
    given = [s.codes for s in every if s.codes is not None]
    drawings = [s.drawing for s in every if s.drawing is not None]
    weights = [s.weights for s in every if s.weights is not None]
    assert not (given and drawings), "codes are either all given or all made from pictures"
    batch = Batch(
        ids=ids,
        learn=learn,
        pixels=torch.cat(pixels) if pixels else None,
        image_slots=image_slots if pixels else None,
        codes=torch.stack(given) if given else None,
        code_slots=code_slots if given or drawings else None,
        code_weights=torch.stack(weights) if weights else None,
        positions=positions,
        segments=segments,
    )
    return Packed(batch, torch.stack(drawings) if drawings else None)
