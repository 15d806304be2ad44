"""The command line of `janus eval`: one word for each benchmark, and `score`.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from janus.api import Janus
    from janus.eval.benchmark import Benchmark, Progress

Bar = Callable[[str, str], AbstractContextManager["Progress"]]  # what is being done, unit

_GENEVAL = """examples:
  janus eval geneval --fixture                                  (twelve prompts, no data needed)
  janus eval geneval --data geneval/prompts --model M --out runs/geneval-M
  janus eval geneval --data evaluation_metadata.jsonl --limit 80 -n 1

The same command given again goes on where it was stopped; `janus eval score` scores anew."""
_SCORE = """examples:
  janus eval score runs/geneval
  janus eval score runs/geneval --mode fixed"""


def add_commands(verb: argparse.ArgumentParser, add_model: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the benchmarks and `score` to `janus eval`; add_model adds the options that choose a model."""
    commands = verb.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    geneval = _command(
        commands, "geneval", "Draw what GenEval's prompts ask for, and have a detector judge.", _GENEVAL
    )
    geneval.add_argument("--data", metavar="PATH", help="evaluation_metadata.jsonl, or the folder it is in")
    geneval.add_argument("--fixture", action="store_true", help="only the package's own small sample")
    geneval.add_argument(
        "--out", metavar="D", default="runs/geneval", help="folder of the run (default: runs/geneval)"
    )
    geneval.add_argument("--limit", type=int, metavar="N", help="only the first N prompts")
    geneval.add_argument("-n", type=int, metavar="N", help="pictures of each prompt (default: 4)")
    geneval.add_argument("--seed", type=int, default=0, help="every picture's own comes from it (default: 0)")
    geneval.add_argument("--guidance", type=float, help="1 is none (default: the checkpoint's own)")
    geneval.add_argument("--temperature", type=float, help="0 is greedy (default: the checkpoint's own)")
    geneval.add_argument("--batch-size", type=int, default=16, help="pictures drawn at once (default: 16)")
    geneval.add_argument("--answers-only", action="store_true", help="draw now, score later")
    _judging(geneval)
    add_model(geneval)
    score = _command(commands, "score", "Score a run's answers anew, without the model.", _SCORE)
    score.add_argument("folder", metavar="DIR", help="the run's --out")
    _judging(score)


def run(options: argparse.Namespace, load: Callable[[argparse.Namespace], Janus], bar: Bar) -> None:
    """Run `janus eval`.  load: the model that the options choose.  bar: shows progress."""
    if options.benchmark == "score":
        _score(_opened(options), options.folder, bar)
        return
    from janus.eval.runner import Asking, answer
    from janus.gallery import check_folder

    benchmark = _geneval(options)
    if options.data and options.fixture:
        raise ValueError("give either --data or --fixture")
    samples = benchmark.samples(Path(options.data) if options.data else None, options.fixture)
    asking = Asking(
        model=_called(options),
        each=options.n,
        limit=options.limit,
        seed=options.seed,
        guidance=options.guidance,
        temperature=options.temperature,
        batch_size=options.batch_size,
    )
    check_folder(options.out)
    if not options.answers_only:
        benchmark.prepare()
    model = load(options)
    with bar("drawing", "picture") as show:
        made = answer(benchmark, samples, model, asking, options.out, show)
    print(f"{made} pictures drawn into {options.out}")
    if not options.answers_only:
        _score(benchmark, options.out, bar)


def _score(benchmark: Benchmark, folder: str, bar: Bar) -> None:
    from janus.eval.runner import REPORT, RESULTS, VERDICTS, score, summary

    with bar("judging", "picture") as show:
        results, scored = score(benchmark, folder, show)
    print(f"\n{summary(results, scored)}\n")
    for name in (RESULTS, VERDICTS, REPORT):
        print(Path(folder) / name)


def _opened(options: argparse.Namespace) -> Benchmark:
    """The benchmark of the run in a folder."""
    from janus.eval.folder import Run

    name = Run.open(Path(options.folder)).plan["benchmark"]
    if name not in _BENCHMARKS:
        raise ValueError(f"{options.folder} holds a run of {name}; there are {', '.join(_BENCHMARKS)}")
    return _BENCHMARKS[name](options)


def _geneval(options: argparse.Namespace) -> Benchmark:
    from janus.eval.geneval import GenEval

    return GenEval(options.detector, options.mode)


_BENCHMARKS: dict[str, Callable[[argparse.Namespace], Benchmark]] = {"geneval": _geneval}


def _command(commands: Any, name: str, summary: str, examples: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _judging(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--mode",
        choices=["official", "fixed"],
        default="official",
        help="the published rules with their quirks, or mended (default: official)",
    )
    command.add_argument(
        "--detector", choices=["scene"], default="scene", help="who judges pictures (default: scene)"
    )


def _called(options: argparse.Namespace) -> str:
    """What reports call the model."""
    name = options.model or "the embedded model"
    return (
        name
        + (f" at {options.revision}" if options.revision else "")
        + (f" with {options.adapter}" if options.adapter else "")
        + (f" in {options.quantize}" if options.quantize else "")
    )
