"""What a benchmark is: samples, the prompt of each, the score of the answers.

One file per benchmark.  Everything else is shared: `runner` gets the answers and keeps them, `folder` is
where they lie, `report` shows what came of them, and `command` is the command line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from janus.eval.profiles import Profile

Line = dict[str, Any]  # a sample, a raw answer, a verdict
Progress = Callable[[int, int], None]  # done, total
Mode = Literal["official", "fixed"]
MODES: tuple[Mode, ...] = ("official", "fixed")
_SHOWN = 10  # bad rows named in one message


@dataclass(frozen=True)
class Samples:
    """A benchmark's data.

    Pictures that samples show lie beside them: a line names them under `pictures`, by their content.
    """

    title: str  # which set of samples it is, as reports call it
    lines: tuple[Line, ...]
    published: bool = False  # whether it is the published data, known by its checksum
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    rows: tuple[
        int, ...
    ] = ()  # which row of its data set each of the first lines is, from 0, if that is known

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
    published: bool  # the samples are the published data, all of it
    each: int  # answers expected to a sample
    raw: Mapping[str, Line]  # raw answers by the key of their item; one with `error` could not be given

    @property
    def items(self) -> list[Item]:
        """All that are expected, in order."""
        return [Item(i, j) for i in range(len(self.samples)) for j in range(self.each)]

    def text(self, sample: int) -> str | None:
        """The answer to a question; None where there is none."""
        return self.raw.get(Item(sample, 0).key, {}).get("answer")


@dataclass(frozen=True)
class Counts:
    """How much of the benchmark a score speaks of, counted as its scorer counts."""

    unit: str  # what is counted: "question", "picture" ...
    expected: int
    answered: int
    parsed: int  # answers that could be read
    scored: int  # of them, and of unreadable ones that count as wrong: all that have a verdict

    @property
    def complete(self) -> bool:
        return self.scored == self.expected


@dataclass(frozen=True)
class Table:
    """Shown in Markdown and on the page."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Scored:
    """What came of it.

    A verdict is a line for each unit that was scored: `item` (the key of its first raw answer), `id`
    (stable), `tags` (by dimension), `prompt`, `pictures` (their files), `answer`, `read` (what was
    understood, None if nothing), `expected`, `score` (0 to 1) and `reason`; `cluster` where units are not
    independent.
    """

    scores: dict[str, float | None]  # `overall` among them, mostly 0 to 1; None where answers are missing
    counts: Counts
    verdicts: Sequence[Line]
    details: Line  # goes into results.json as it is: counts, intervals, who judged
    caveat: str  # stands beside the score wherever it is shown; empty if it is a published number's equal
    tables: Sequence[Table]  # the scores beside published ones
    notes: Sequence[str] = ()


class Benchmark(Protocol):
    """Samples, prompt, score."""

    kind: Literal["answer", "picture"]  # what the model gives
    mode: Mode  # the published rules with their quirks, or mended ones
    each: int  # answers to a sample unless the user says otherwise

    @property
    def name(self) -> str:
        """As the command line and results.json call it."""

    @property
    def profile(self) -> Profile | None:
        """How questions are put; None for drawings."""

    @property
    def settings(self) -> Line:
        """What its prompts depend on besides the samples."""

    def samples(self, data: Path | None, fixture: bool) -> Samples:
        """The data at `data`; None: the package's own, of which `fixture` is a small part.

        Raises ValueError naming every line that is not as it should be.
        """

    def limited(self, lines: Sequence[Line], limit: int) -> Sequence[Line]:
        """The first `limit` samples, and what belongs to them."""

    def prompt(self, sample: Line) -> str:
        """What the model is given."""

    def prepare(self) -> None:
        """Load what `score` needs, so that its absence is noticed before any answer is made."""

    def score(self, answers: Answers, on_progress: Progress | None = None) -> Scored:
        """Score what there is.  The same answers always give the same."""


def caveats(mode: Mode, *reasons: str, by: str = "the official ones") -> str:
    """One sentence of all reasons why a score is no published number's equal, mended rules among them.

    by: whose rules the published numbers are by.
    """
    mended = f"by mended rules, published numbers are by {by}" if mode == "fixed" else ""
    return "; ".join(filter(None, [*reasons, mended]))


def refused(source: object, wrong: Sequence[str], good: int) -> ValueError:
    """The error for data with bad rows: the first of them, and how many there are beside good ones."""
    more = f"\n  and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    listed = "\n  ".join(wrong[:_SHOWN])
    return ValueError(f"{source} has {len(wrong)} bad rows beside {good} good ones:\n  {listed}{more}")


def check_mode(mode: str) -> None:
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
