"""Random numbers on the device that uses them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


class Lots:
    """Random numbers from one generator, on its device."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def unit(self, *shape: int) -> Tensor:
        """From 0 to 1."""
        return torch.rand(shape, generator=self.generator, device=self.generator.device)

    def between(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * self.unit(*shape)

    def below(self, end: Tensor | int, *shape: int) -> Tensor:
        """Whole numbers from 0 to `end`, exclusive, long; `end` broadcasts to the shape."""
        return (self.unit(*shape) * end).long()  # never `end` itself: that is no nearer than the number below

    def weighted(self, weights: Sequence[float], *shape: int) -> Tensor:
        """Numbers of the weights, as often as they say."""
        ends = tuple((np.cumsum(weights)[:-1] / np.sum(weights)).tolist())
        return torch.bucketize(self.unit(*shape), constant(ends, self.device), right=True)

    def different(self, allowed: Tensor, most: int) -> Tensor:
        """(C, n) bool to (C, most) different numbers below n; where fewer are allowed, others follow."""
        return (self.unit(*allowed.shape) + allowed).topk(most, dim=1).indices

    @property
    def device(self) -> torch.device:
        return self.generator.device


@lru_cache(64)
def constant(values: tuple[object, ...], device: torch.device) -> Tensor:
    """Kept on the device: each copy there would wait for what the device has to do."""
    return torch.tensor(values, device=device)
