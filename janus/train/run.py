"""What every training run does, whatever it trains: claim a folder, take steps, log, look, keep, finish."""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Set
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

import torch

from janus.checkpoints.files import read_json
from janus.checkpoints.writing import write_json
from janus.gallery import check_folder
from janus.train import results
from janus.train.loader import Step
from janus.train.logs import Log
from janus.train.parallel import Parallel
from janus.train.state import State

LOG_EVERY = 10  # steps
PICTURES = "pictures"  # in a run's folder: what validation looks at
_RECIPE = "recipe.json"  # in a run's folder
B = TypeVar("B")


class Plan(Protocol):
    """What every run reads of its recipe."""

    @property
    def out(self) -> str: ...
    @property
    def steps(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def schedule(self) -> Literal["constant", "cosine"]: ...
    @property
    def warmup(self) -> int: ...
    @property
    def keep_every(self) -> int: ...
    @property
    def precision(self) -> Literal["float32", "bfloat16"]: ...


class Run(ABC, Generic[B]):
    """A run, claimed for its recipe.  A subclass sets up what is trained and takes the steps.

    `values` are the recipe's as JSON has them; those called `free` may change between the parts of a run
    without making it another one.  Raises ValueError for a folder with another run in it.
    """

    loader: Iterable[Step[B]]
    state: State
    columns: list[str]  # of the log
    target: Path  # where the result goes
    look_every: int | None = None  # steps

    def __init__(self, plan: Plan, values: dict[str, Any], free: Set[str], parallel: Parallel) -> None:
        self.plan, self.parallel = plan, parallel
        self.values: dict[str, Any] = json.loads(json.dumps(values))
        self.folder = Path(plan.out)
        self.step = 0
        self.seen: dict[str, int] = {}
        claim(self.folder, self.values, free, parallel)
        if plan.precision == "bfloat16" and parallel.device.type == "cpu" and not _has_bfloat16():
            self.tell(
                "this processor has no instructions for bfloat16 and will be slow; --set precision=float32"
            )

    def tell(self, text: str) -> None:
        """Print it once, however many processes there are."""
        if self.parallel.first:
            print(text, flush=True)

    def resume(self) -> dict[str, Any] | None:
        """Go on from the last state in the folder, if there is one; returns its counts."""
        last = self.state.latest()
        if last is None:
            return None
        counts = self.state.resume(last)
        self.step, self.seen = counts["step"], counts["seen"]
        self.tell(f"going on after step {self.step} of {self.plan.steps}")
        return counts

    @property
    def rate(self) -> float:
        """The learning rate of this step."""
        return self.plan.learning_rate * schedule(self.plan, self.step)

    @abstractmethod
    def learn(self, step: Step[B]) -> None:
        """Take one step, numbered `self.step`."""

    @abstractmethod
    def report(self, seconds: float) -> dict[str, float]:
        """A row of the log, with a `loss`, about the steps since the last one, each `seconds` long.

        Every process calls it.
        """

    def look(self) -> dict[str, float]:
        """Scores on the validation data, and pictures of it."""
        return {}

    @abstractmethod
    def finish(self, scores: dict[str, float]) -> Path:
        """Write the result, with its card, and return where it is; `scores` are the last look's."""

    def go(self) -> Path:
        """Take the steps that are left, and finish.  Raises ValueError where the loss is no number."""
        steps = self.plan.steps
        if self.step >= steps and (self.target / results.CARD).exists():  # the card is written last
            self.tell(f"finished already: {self.target}")
            return self.target
        log = None
        if self.parallel.first:
            write_json(self.folder / _RECIPE, self.values)
            log = Log(self.folder, self.columns, steps, self.step)
        since, first = time.monotonic(), self.step
        scores: dict[str, float] = {}
        for step in islice(self.loader, steps - self.step):
            self.step += 1
            self.learn(step)
            if self._due(LOG_EVERY):
                values = self.report((time.monotonic() - since) / (self.step - first))
                if not math.isfinite(values["loss"]):
                    raise ValueError(
                        f"the loss is {values['loss']} at step {self.step}; begin again in another folder "
                        "with a lower learning rate"
                    )
                if log is not None:
                    log.write(self.step, values)
                since, first = time.monotonic(), self.step
            if self.look_every is not None and self._due(self.look_every):
                scores = self.look()
                if log is not None:
                    log.write(self.step, scores)
            if self._due(self.plan.keep_every):
                self.state.keep(self.step, {"step": self.step, "seen": self.seen, "stream": step.state})
        if log is not None:
            log.close()
        return self.finish(scores)

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.plan.steps


def schedule(plan: Plan, step: int) -> float:
    """The share of the learning rate at step 1, 2, ...: a linear warm-up, then constant or a cosine to 0."""
    rise = min(1.0, step / plan.warmup) if plan.warmup else 1.0
    if plan.schedule == "constant":
        return rise
    done = (step - 1 - plan.warmup) / max(1, plan.steps - plan.warmup)
    return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, done))))


def _changes(before: Any, now: Any, name: str) -> list[str]:
    """What differs between two values as JSON has them, by the parts: "data[0].weight (1.0, now 2.0)"."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*before, *now])
        return [one for key in keys for one in _changes(before.get(key), now.get(key), f"{name}.{key}")]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = enumerate(zip(before, now, strict=True))
        return [one for number, pair in pairs for one in _changes(*pair, f"{name}[{number}]")]
    return [] if before == now else [f"{name} ({before!r}, now {now!r})"]


def claim(folder: Path, values: dict[str, Any], free: Set[str], parallel: Parallel) -> None:
    """Make sure that the folder can be written, and is new or this recipe's; it is claimed by the first step.

    `values` are the recipe's as JSON has them; those called `free` may differ.  Raises ValueError for a
    folder with something else in it, or with another run, naming what differs.
    """
    path = folder / _RECIPE
    if path.is_file():
        before = read_json(path)
        differs = [
            told
            for name in values
            if name not in free
            for told in _changes(before.get(name), values[name], name)
        ]
        if differs:
            raise ValueError(
                f"{folder} holds a run with another recipe; it differs in {', '.join(differs)}.  Give this "
                "run a folder of its own with `out`"
            )
    elif folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} has something else in it; give the run a new folder with `out`")
    check_folder(folder)
    parallel.wait()


def _has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 itself, as far as PyTorch can tell."""
    told: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return told.get("architecture") != "x86_64" or bool(told["avx512_bf16"] or told["amx_bf16"])
