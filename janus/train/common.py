"""What all training stages share: the schedule, averaged weights, runs that go on after being killed."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import nn


def learning_rate(top: float, step: int, warmup: int, steps: int) -> float:
    """Linear warm-up over the first `warmup` of `steps`, and a cosine over all of them to 2 %."""
    rise = min(1.0, (step + 1) / warmup)
    fall = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
    return top * rise * fall


class Schedule(Protocol):
    """What a run reads of its section of the recipe."""

    @property
    def steps(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def warmup(self) -> int: ...


class Run:
    """A training run of so many steps.  All that it needs to go on after being killed lies in one file.

    `parts` are its modules and its optimizer, under the names that they have in the file; `generator`, if
    given, is the source of its randomness.  What an earlier, interrupted run left in the file is taken up
    at once.
    """

    def __init__(
        self, path: Path, settings: Schedule, parts: dict[str, Any], generator: torch.Generator | None = None
    ) -> None:
        self.path, self.settings, self.parts, self.generator = path, settings, parts, generator
        self.step = 0
        if path.exists():
            state = torch.load(path, weights_only=True)
            for name, part in parts.items():
                part.load_state_dict(state[name])
            if generator is not None:
                generator.set_state(state["generator"])
            self.step = state["step"]
            print(f"resumed {path.name} at step {self.step} of {settings.steps}", flush=True)
        self._first, self._started = self.step, time.monotonic()

    def steps(self) -> Iterator[int]:
        """Counts the remaining steps from 1 to the last and keeps the state every 500 and at the end.

        Sets the learning rate before each.
        """
        settings = self.settings
        while self.step < settings.steps:
            for group in self.parts["optimizer"].param_groups:
                rate = learning_rate(settings.learning_rate, self.step, settings.warmup, settings.steps)
                group["lr"] = rate
            yield self.step + 1
            self.step += 1
            if self.step % 500 == 0 or self.step == settings.steps:
                self.keep()

    def keep(self) -> None:
        state = {name: part.state_dict() for name, part in self.parts.items()}
        if self.generator is not None:
            state["generator"] = self.generator.get_state()
        save(self.path, state | {"step": self.step})

    def pace(self, step: int) -> str:
        """ "0.27 s a step, 12.3 min left" """
        seconds = (time.monotonic() - self._started) / max(1, step - self._first)
        return f"{seconds:.2f} s a step, {seconds * (self.settings.steps - step) / 60:.1f} min left"


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
