"""The two steps of every benchmark: get raw answers, and score what there is.

`answer` may be killed at any moment and called again: it asks only what has no answer yet.  `score` reads
the folder alone, so that it can be repeated in another mode, with another judge, or on another machine.
"""

from __future__ import annotations

import dataclasses
import hashlib
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from janus import __version__
from janus.eval.benchmark import Benchmark, Item, Line, Progress, Samples, Scored
from janus.eval.folder import Journal, Run, claimed, missing, write_json, write_lines, write_whole

if TYPE_CHECKING:
    from janus.api import Janus

RESULTS, VERDICTS, REPORT, TIMES = "results.json", "verdicts.jsonl", "report.md", "times.jsonl"


@dataclasses.dataclass(frozen=True)
class Asking:
    """How answers are made.  All but `batch_size` must stay the same when a run goes on."""

    model: str  # what reports call it
    each: int | None = None  # answers to a sample; None: as the benchmark says
    limit: int | None = None  # only the first samples
    seed: int = 0
    guidance: float | None = None  # None: the checkpoint's own
    temperature: float | None = None  # None: the checkpoint's own
    batch_size: int = 16

    def __post_init__(self) -> None:
        for name in ("each", "limit", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")


class Asker(Protocol):
    """Makes raw answers of one kind."""

    @property
    def settings(self) -> Line:
        """What the answers depend on besides the model."""

    def ask(self, items: Sequence[Item], folder: Path, on_progress: Progress | None = None) -> list[Line]:
        """The raw answers to some items, each a line with the key `item`."""

    def intact(self, answer: Line, folder: Path) -> bool:
        """Whether the files that an answer speaks of are there and whole."""


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
    from janus.eval.drawing import Drawer

    lines = samples.lines[: asking.limit]
    prompts = [benchmark.prompt(line) for line in lines]
    asker = Drawer(
        model,
        lines,
        prompts,
        seed=asking.seed,
        guidance=asking.guidance,
        temperature=asking.temperature,
        batch_size=asking.batch_size,
    )
    settings = {
        "model": asking.model,
        "weights": fingerprint(model),
        "dtype": str(model.model.dtype).removeprefix("torch."),
        "device": model.model.device.type,
        "each": asking.each or benchmark.each,
        "limit": asking.limit,
        **asker.settings,
    }
    with claimed(out) as folder:
        run = Run.begin(folder, _plan(benchmark, samples, settings), lines)
        return make_answers(run, asker, asking.batch_size, on_progress)


def make_answers(run: Run, asker: Asker, batch_size: int, on_progress: Progress | None = None) -> int:
    """Ask what has no answer yet, up to `batch_size` items at once; returns how many these were.

    Batches begin at multiples of `batch_size` whatever is there already: a run that goes on asks the same
    items together as one that was never stopped, so that not even a rounding differs.
    """
    answers, times = run.answers(), Journal(run.folder / TIMES)
    there = {key for key, raw in answers.raw.items() if asker.intact(raw, run.folder)}
    left = [
        [item for item in batch if item.key not in there] for batch in _batches(answers.items, batch_size)
    ]
    total, made = sum(map(len, left)), 0
    for some in filter(None, left):

        def show(done: int, _: int, before: int = made) -> None:
            if on_progress is not None:
                on_progress(before + done, total)

        began = time.monotonic()
        run.journal.add(asker.ask(some, run.folder, show))
        times.add([{"answers": len(some), "seconds": round(time.monotonic() - began, 3)}])
        made += len(some)
        show(len(some), len(some))
    return total


def _batches(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def score(benchmark: Benchmark, out: str | Path, on_progress: Progress | None = None) -> tuple[Line, Scored]:
    """Score the answers in the folder `out`, and write results.json, verdicts.jsonl and report.md there.

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
        expected = len(answers.items)
        results = {
            "benchmark": benchmark.name,
            "mode": benchmark.mode,
            "complete": scored.scored == expected,
            "scores": scored.scores,
            "expected": expected,
            "answered": expected - len(missing(answers)),
            "parsed": scored.parsed,
            "scored": scored.scored,
            "caveat": scored.caveat,
            "samples": run.plan["samples"],
            **scored.details,
            "settings": run.plan["settings"],
            "versions": {**run.plan["versions"], "scored by janus": __version__},
        }
        write_lines(folder / VERDICTS, scored.verdicts)
        write_whole(folder / REPORT, report(results, scored).encode())
        write_json(folder / RESULTS, results)
    return results, scored


def summary(results: Line, scored: Scored) -> str:
    """What a person reads first, as Markdown: the caveat, what is missing, the scores."""
    samples, settings = results["samples"], results["settings"]
    used, count = samples["used"], samples["count"]
    part = f"all {count}" if used == count else f"the first {used} of {count}"
    lines = [
        f"{results['benchmark']} by the {results['mode']} rules, {part} of {samples['title']}",
        "; ".join(f"{name}: {value}" for name, value in settings.items() if value is not None),
    ]
    if results["caveat"]:
        lines.append(f"**{results['caveat']}**")
    if not results["complete"]:
        lines.append(
            f"**INCOMPLETE: of {results['expected']} answers expected, {results['answered']} were given, "
            f"{results['parsed']} could be read and {results['scored']} are scored; there is no overall "
            "score.  Run the same command again to get the rest.**"
        )
    return "\n\n".join([*lines, scored.table])


def report(results: Line, scored: Scored) -> str:
    """The whole report, as Markdown."""
    title = f"# {results['benchmark']}: {results['settings']['model']}"
    return f"{title}\n\n{summary(results, scored)}\n\n{scored.reasons}\n"


def fingerprint(model: Janus) -> str:
    """Tells weights from others: a hash of every tensor's name, shape and 64 values spread over it."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.model.state_dict().items()):
        flat = tensor.detach().flatten()
        some = flat[:: max(1, len(flat) // 64)][:64].float().cpu().numpy()
        found.update(f"{name} {list(tensor.shape)}".encode() + some.tobytes())
    return found.hexdigest()[:16]


def _plan(benchmark: Benchmark, samples: Samples, settings: Line) -> Line:
    used = len(samples.lines[: settings["limit"]])
    about: dict[str, Any] = {"title": samples.title, "count": len(samples.lines), "used": used}
    return {
        "benchmark": benchmark.name,
        "samples": {**about, "sha256": samples.sha256},
        "settings": settings,
        "versions": {"janus": __version__, "torch": version("torch"), "python": platform.python_version()},
    }
