"""What a benchmark is: samples, the prompt of each, the score of the answers.

One file per benchmark.  Everything else is shared: `runner` gets the answers and keeps them, `folder` is
where they lie, and `command` is the command line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

Line = dict[str, Any]  # a sample as the official file has it, a raw answer, a verdict
Progress = Callable[[int, int], None]  # done, total
Mode = Literal["official", "fixed"]


@dataclass(frozen=True)
class Samples:
    """A benchmark's data, in its official form."""

    title: str  # which set of samples it is, as reports call it
    lines: tuple[Line, ...]

    @property
    def sha256(self) -> str:
        """Of the content: order counts, white space and the order of keys do not."""
        text = "\n".join(json.dumps(line, sort_keys=True, ensure_ascii=False) for line in self.lines)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Item:
    """One answer that is expected: the `number`-th to the `sample`-th line, both counted from 0."""

    sample: int
    number: int

    @property
    def key(self) -> str:
        return f"{self.sample:05d}/{self.number:05d}"

    def seed(self, base: int) -> int:
        """Its own, from 0 to 2**32 - 1: the same in whatever order and by however many workers it is made."""
        return int(np.random.SeedSequence((base, self.sample, self.number)).generate_state(1)[0])


@dataclass(frozen=True)
class Answers:
    """What there is to score."""

    folder: Path  # the run's
    samples: Sequence[Line]
    title: str  # of the samples
    each: int  # answers expected to a sample
    raw: Mapping[str, Line]  # raw answers by the key of their item

    @property
    def items(self) -> list[Item]:
        """All that are expected, in order."""
        return [Item(i, j) for i in range(len(self.samples)) for j in range(self.each)]


@dataclass(frozen=True)
class Scored:
    """What came of it."""

    scores: dict[str, float | None]  # `overall` among them; None where answers are missing
    parsed: int  # answers that could be read
    scored: int  # answers that have a verdict
    verdicts: Sequence[Line]  # one for each, with its reason
    details: Line  # goes into results.json as it is: counts, intervals, who judged
    caveat: str  # stands beside the score wherever it is shown; empty if it is a published number's equal
    table: str  # Markdown: the scores beside published ones
    reasons: str  # Markdown: every verdict


class Benchmark(Protocol):
    """Samples, prompt, score."""

    name: str  # as the command line and results.json call it
    mode: Mode  # the published rules with their quirks, or mended ones
    each: int  # answers to a sample unless the user says otherwise

    def samples(self, data: Path | None, fixture: bool) -> Samples:
        """The data at `data`; None: the package's own, of which `fixture` is a small part.

        Raises ValueError naming every line that is not as it should be.
        """

    def prompt(self, sample: Line) -> str:
        """What the model is given."""

    def prepare(self) -> None:
        """Load what `score` needs, so that its absence is noticed before any answer is made."""

    def score(self, answers: Answers, on_progress: Progress | None = None) -> Scored:
        """Score what there is.  The same answers always give the same."""
