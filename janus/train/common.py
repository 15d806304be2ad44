"""What both training stages share: a clock-driven schedule, averaged weights, safe checkpoints."""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn


def learning_rate(top: float, step: int, warmup: int, done: float) -> float:
    """Linear warm-up by steps, then a cosine over `done`, the share of the run behind us, to 2 %."""
    rise = min(1.0, (step + 1) / warmup)
    fall = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return top * rise * fall


class Clock:
    """Wall-clock time of a run, continued after a pause."""

    def __init__(self, minutes: float, spent: float = 0.0) -> None:
        self.seconds = 60 * minutes
        self.started = time.monotonic() - spent

    @property
    def spent(self) -> float:
        return time.monotonic() - self.started

    @property
    def done(self) -> float:
        return self.spent / self.seconds

    def left(self) -> str:
        return f"{max(0.0, self.seconds - self.spent) / 60:.1f} min left"


M = TypeVar("M", bound=nn.Module)


class Average(Generic[M]):
    """The exponential moving average of a model's weights; buffers are copied."""

    def __init__(self, model: M, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: M, step: int) -> None:
        decay = min(self.decay, (step + 1) / (step + 10))  # short memory at the start
        for a, b in zip(self.model.parameters(), model.parameters(), strict=True):
            a.lerp_(b, 1 - decay)
        for kept, now in zip(self.model.buffers(), model.buffers(), strict=True):
            kept.copy_(now)


def save(path: Path, state: dict[str, Any]) -> None:
    """Written beside and renamed, so that a reader never finds half a file."""
    beside = path.with_suffix(".part")
    torch.save(state, beside)
    beside.replace(path)
