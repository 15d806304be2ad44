"""The command line of `janus eval`, at work; `janus.eval.options` has its options.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from janus.eval.options import BENCHMARKS, About

if TYPE_CHECKING:
    from janus.api import Janus
    from janus.eval.benchmark import Benchmark, Progress

Bar = Callable[[str, str], AbstractContextManager["Progress"]]  # what is being done, unit
Load = Callable[[argparse.Namespace], "Janus"]


def run(options: argparse.Namespace, load: Load, bar: Bar) -> None:
    """Run `janus eval`.  load: the model that the options choose.  bar: shows progress."""
    if options.benchmark == "score":
        _score_again(options, load, bar)
    elif options.benchmark == "compare":
        from janus.eval.compare import compare

        print(compare(options.folder, options.other, options.show))
    elif options.benchmark == "table":
        from janus.eval.compare import overview

        print(overview(options.folders))
    else:
        _run(options, load, bar)


def _run(options: argparse.Namespace, load: Load, bar: Bar) -> None:
    from janus.eval.workers import Workers
    from janus.gallery import check_folder

    about = BENCHMARKS[options.benchmark]
    benchmark = _benchmark(options.benchmark, options, load)
    if options.data and options.fixture:
        raise ValueError("give either --data or --fixture")
    if options.workers and not options.ray:
        raise ValueError("--workers belongs to --ray; without a cluster torchrun says how many there are")
    asking = _settings(options, about)
    with Workers.here() as workers:
        samples = None
        if workers.first:
            samples = _samples(benchmark, options, about, bar)
            check_folder(options.out)
            if not options.answers_only:
                benchmark.prepare()
        if options.ray:
            made = _on_ray(benchmark, samples, asking, options, bar)
        else:
            model = load(options)
            doing = "drawing" if about.kind == "picture" else "asking"
            with bar(doing, about.kind) if workers.first else nullcontext() as show:
                made = workers.answer(benchmark, samples, model, asking, options.out, show)
        if not workers.first:
            return
        done = "drawn" if about.kind == "picture" else "given"
        print(f"{made} {about.kind}s {done} into {options.out}")
        if not options.answers_only:
            _score(benchmark, options.out, bar)


def _samples(benchmark: Any, options: argparse.Namespace, about: About, bar: Bar) -> Any:
    from janus.eval.hub import found

    data = found(options.data, getattr(benchmark, "accepts", ())) if options.data else None
    if about.kind == "answer":
        images = Path(options.images) if options.images else None
        with bar("reading", "B") as show:
            return benchmark.samples(data, options.fixture, images, show)
    return benchmark.samples(data, options.fixture)


def _settings(options: argparse.Namespace, about: About) -> Any:
    from janus.eval.runner import Asking

    if about.kind == "answer":
        more = {"max_tokens": options.max_tokens}
    else:
        more = {
            "each": options.n,
            "seed": options.seed,
            "guidance": options.guidance,
            "temperature": options.temperature,
        }
    return Asking(model=_called(options), limit=options.limit, batch_size=options.batch_size, **more)


def _on_ray(benchmark: Any, samples: Any, asking: Any, options: argparse.Namespace, bar: Bar) -> int:
    from janus.eval.cluster import answer

    model = {
        name: getattr(options, name)
        for name in ("device", "dtype", "quantize", "adapter", "revision", "offline")
    }
    with bar("on the cluster", "answer") as show:
        return answer(
            benchmark,
            samples,
            {"source": options.model, **model},
            asking,
            options.out,
            show,
            address=options.ray,
            workers=options.workers,
        )


def _score(benchmark: Benchmark, folder: str | Path, bar: Bar) -> None:
    from janus.eval.report import summary
    from janus.eval.runner import PAGE, REPORT, RESULTS, VERDICTS, score

    with bar("judging", "answer") as show:
        results, scored = score(benchmark, folder, show)
    print(f"\n{summary(results, scored)}\n")
    for name in (RESULTS, VERDICTS, REPORT, PAGE):
        print(Path(folder) / name)


def _score_again(options: argparse.Namespace, load: Load, bar: Bar) -> None:
    from janus.eval.folder import Run

    if Path(options.folder).is_dir():
        name = Run.open(Path(options.folder)).plan["benchmark"]
        if name not in BENCHMARKS:
            raise ValueError(f"{options.folder} holds a run of {name}; there are {', '.join(BENCHMARKS)}")
        if options.named not in (None, name):
            raise ValueError(f"{options.folder} holds a run of {name}, not of {options.named}")
        folder = Path(options.folder)
        options.prompts = Run.open(folder).plan["settings"].get("profile", "pro")
    else:
        from janus.eval.hub import found
        from janus.eval.others import bring_in

        name, options.prompts = options.named, "plain"
        if name is None or BENCHMARKS[name].kind != "answer":
            named = [one for one, about in BENCHMARKS.items() if about.kind == "answer"]
            raise ValueError(f"say with --as whose answers {options.folder} holds: {', '.join(named)}")
        file = Path(options.folder)
        folder = Path(options.out) if options.out else file.with_name(f"{file.name}.scored")
        data = found(options.data, ()) if options.data else None
        images = Path(options.images) if options.images else None
        bring_in(_benchmark(name, options, load), file, folder, data, images)
    _score(_benchmark(name, options, load), folder, bar)


def _benchmark(name: str, options: argparse.Namespace, load: Load) -> Any:
    """The benchmark, with its judge or detector."""
    if name == "geneval":
        from janus.eval.geneval import GenEval

        settings: dict[str, Any] = {}
        if options.detector == "mask2former":
            settings = {"source": options.detector_model, "clip": options.clip_model}
        elif options.detector_model or options.clip_model:
            raise ValueError("--detector-model and --clip-model belong to --detector mask2former")
        return GenEval(options.detector, options.mode, settings=settings)
    from importlib import import_module

    kind = {"mmbench": "MMBench", "seed": "Seed", "mmvet": "MMVet", "dpg": "DPG"}.get(name, name.upper())
    make = getattr(import_module(f"janus.eval.{name}"), kind)
    more: dict[str, Any] = {"judge": _judge(options, load)} if BENCHMARKS[name].judged else {}
    if BENCHMARKS[name].kind == "answer":
        more["profile"] = options.prompts
    return make(mode=options.mode, **more)


def _judge(options: argparse.Namespace, load: Load) -> Any:
    """Who is asked where a rule needs a judge; None: the benchmark does without."""
    who = options.judge
    if who is None:
        if options.judge_model:
            raise ValueError(f"say with --judge where {options.judge_model} is to be asked")
        return None
    if who == "janus":
        from janus.api import Janus
        from janus.eval.judges import ModelJudge

        name = options.judge_model or "the embedded model"
        return ModelJudge(Janus.from_pretrained(options.judge_model), name)
    if who == "mplug":
        from janus.eval.dpg import MPlug

        return MPlug()
    from janus.eval.endpoint import Endpoint
    from janus.eval.judges import Limit

    if not options.judge_model:
        raise ValueError(f"say with --judge-model which model {who} is to be asked for")
    prices = tuple(options.judge_prices) if options.judge_prices else None
    limit = Limit(options.judge_requests, None, options.judge_budget, prices)
    return Endpoint(who, options.judge_model, key_variable=options.judge_key or None, limit=limit)


def _called(options: argparse.Namespace) -> str:
    """What reports call the model."""
    name = options.model or "the embedded model"
    return (
        name
        + (f" at {options.revision}" if options.revision else "")
        + (f" with {options.adapter}" if options.adapter else "")
        + (f" in {options.quantize}" if options.quantize else "")
    )
