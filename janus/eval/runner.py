"""The two steps of every benchmark: get raw answers, and score what there is.

`answer` may be killed at any moment and called again: it asks only what has no answer yet.  `score` reads
the folder alone, so that it can be repeated in another mode, with another judge, or on another machine.
"""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from janus import __version__
from janus.eval.asking import Asker, Made, Manner, Request, asker_for
from janus.eval.benchmark import Benchmark, Item, Line, Progress, Samples, Scored
from janus.eval.folder import Journal, Run, claimed, intact, write_json, write_lines, write_whole
from janus.eval.report import page, report

if TYPE_CHECKING:
    from janus.api import Janus

RESULTS, VERDICTS, TIMES = "results.json", "verdicts.jsonl", "times.jsonl"
REPORT, PAGE = "report.md", "report.html"
Batch = Sequence[Request]


@dataclasses.dataclass(frozen=True)
class Asking:
    """How answers are made.  All but `batch_size` must stay the same when a run goes on."""

    model: str  # what reports call it
    each: int | None = None  # answers to a sample; None: as the benchmark says
    limit: int | None = None  # only the first samples, and what belongs to them
    seed: int = 0  # of drawings
    guidance: float | None = None  # of drawings; None: the checkpoint's own
    temperature: float | None = None  # of drawings; None: the checkpoint's own
    max_tokens: int | None = None  # of answers in words; None: as the prompt profile says
    batch_size: int = 16

    def __post_init__(self) -> None:
        for name in ("each", "limit", "max_tokens", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, not {self.seed}")


def answer(
    benchmark: Benchmark,
    samples: Samples,
    model: Janus,
    asking: Asking,
    out: str | Path,
    on_progress: Progress | None = None,
) -> int:
    """Get every answer that is not in the folder `out` yet; returns how many these were.

    on_progress: answers made and to be made by this call.  Raises ValueError, before any is made, for what
    does not fit: settings, prompts, memory, a folder with another run, another process at work in it.
    """
    asker = asker_for(manner_of(benchmark, asking), model)
    lines = chosen(benchmark, samples, asking)
    asker.check([benchmark.prompt(line) for line in lines], asking.batch_size)
    with claimed(out) as folder:
        run = begin(benchmark, samples, lines, asking, asker.settings, folder)
        left = batches(run, asking.batch_size)
        made = make_answers(run, left, benchmark.prompt, asker, asking.seed, on_progress)
        run.gather()
    return made


def manner_of(benchmark: Benchmark, asking: Asking) -> Manner:
    """How the answers to this benchmark are made."""
    profile = benchmark.profile
    if profile is None:
        return Manner("picture", guidance=asking.guidance, temperature=asking.temperature)
    return Manner(
        "answer",
        max_tokens=asking.max_tokens or profile.max_tokens,
        template=dict(profile.template),
        system=profile.systems.get(benchmark.name),
    )


def chosen(benchmark: Benchmark, samples: Samples, asking: Asking) -> Sequence[Line]:
    """The samples that are asked."""
    return samples.lines if asking.limit is None else benchmark.limited(samples.lines, asking.limit)


def begin(
    benchmark: Benchmark,
    samples: Samples,
    lines: Sequence[Line],
    asking: Asking,
    settings: Line,
    folder: Path,
) -> Run:
    """The run in a claimed folder; settings: the asker's.  Raises ValueError where another run lies there."""
    about: dict[str, Any] = {"title": samples.title, "count": len(samples.lines), "used": len(lines)}
    plan = {
        "benchmark": benchmark.name,
        "samples": {**about, "published": samples.published, "sha256": samples.sha256},
        "settings": {
            "model": asking.model,
            "each": asking.each or benchmark.each,
            "limit": asking.limit,
            "seed": asking.seed if benchmark.kind == "picture" else None,
            **benchmark.settings,
            **settings,
        },
        "versions": {"janus": __version__, "torch": version("torch"), "python": platform.python_version()},
    }
    return Run.begin(folder, plan, lines, samples.pictures)


def batches(run: Run, size: int) -> list[list[Item]]:
    """What is still to be asked, in batches of up to `size`.

    Batches begin at multiples of `size` whatever is there already: a run that goes on asks the same items
    together as one that was never stopped, so that not even a rounding differs.
    """
    answers = run.answers()
    there = {key for key, raw in answers.raw.items() if intact(raw, run.folder)}
    items = answers.items
    cut = [items[start : start + size] for start in range(0, len(items), size)]
    left = [[item for item in batch if item.key not in there] for batch in cut]
    return [batch for batch in left if batch]


def make_answers(
    run: Run,
    left: Sequence[Sequence[Item]],
    prompt: Callable[[Line], str],
    asker: Asker,
    seed: int = 0,
    on_progress: Progress | None = None,
    worker: int = 0,
) -> int:
    """Ask batches of items, and keep the answers; returns how many these were."""
    keeper = Keeper(run, worker)
    total, done = sum(map(len, left)), 0
    for some in requests(run, left, prompt, seed):

        def show(now: int, _: int, before: int = done) -> None:
            if on_progress is not None:
                on_progress(before + now, total)

        began = time.monotonic()
        keeper.keep(asker.ask(some, show), time.monotonic() - began)
        done += len(some)
        show(0, 0, done)
    return total


def requests(
    run: Run, left: Sequence[Sequence[Item]], prompt: Callable[[Line], str], seed: int
) -> Iterator[Batch]:
    """What an asker is given for batches of items."""
    for batch in left:
        lines = [run.samples[item.sample] for item in batch]
        yield [
            Request(item, prompt(line), item.seed(seed), line, run.pictures(line))
            for item, line in zip(batch, lines, strict=True)
        ]


class Keeper:
    """Puts answers into the run's folder: files first, then the lines that speak of them."""

    def __init__(self, run: Run, worker: int = 0) -> None:
        self._folder, self._answers = run.folder, run.journal(worker)
        self._times = Journal(run.folder / (f"times-{worker}.jsonl" if worker else TIMES))

    def keep(self, made: Sequence[Made], seconds: float) -> None:
        """They are on the disk when this returns."""
        for one in made:
            for path, data in one.files.items():
                write_whole(self._folder / path, data)
        self._answers.add([one.line for one in made])
        self._times.add([{"answers": len(made), "seconds": round(seconds, 3)}])


def score(benchmark: Benchmark, out: str | Path, on_progress: Progress | None = None) -> tuple[Line, Scored]:
    """Score the answers in the folder `out`; write results.json, verdicts.jsonl, report.md and report.html.

    Returns what results.json holds, and the verdicts and tables.  Where answers are missing, it says so
    and has no `overall`.  Raises ValueError if there is no run of this benchmark, or nothing was answered.
    """
    folder = Path(out)
    Run.open(folder)
    with claimed(folder):
        run = Run.open(folder)
        if run.plan["benchmark"] != benchmark.name:
            raise ValueError(f"{folder} holds a run of {run.plan['benchmark']}, not of {benchmark.name}")
        answers = run.answers()
        if not answers.raw:
            raise ValueError(f"{folder} has no answers yet")
        scored = benchmark.score(answers, on_progress)
        counts = scored.counts
        results = {
            "benchmark": benchmark.name,
            "mode": benchmark.mode,
            "complete": counts.complete,
            "scores": scored.scores,
            **dataclasses.asdict(counts),
            "errors": [raw for raw in answers.raw.values() if "error" in raw],
            "caveat": scored.caveat,
            "samples": run.plan["samples"],
            **scored.details,
            "settings": run.plan["settings"],
            "versions": {**run.plan["versions"], "scored by janus": __version__},
        }
        write_lines(folder / VERDICTS, scored.verdicts)
        write_whole(folder / REPORT, report(results, scored).encode())
        write_whole(folder / PAGE, page(results, scored).encode())
        write_json(folder / RESULTS, results)
    return results, scored
