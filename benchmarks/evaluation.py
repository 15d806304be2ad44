"""What `janus eval` costs beside what the model does anyway, and whether ten kills change anything.

    python benchmarks/evaluation.py [MODEL] [--questions 320] [--pictures 64] [--rounds 3] [--kills 10]

Bare: `Janus.chat_batch` and `Janus.generate_images` on requests that lie ready in memory, in the same
batches.  Harness: `janus.eval.runner.answer` from samples to a finished folder, with all that it reads,
writes and puts on the disk.  Both take turns in one process; what is given is the least time of each.
Reading the data is not part of it; it is given by itself.

With --kills, `janus eval` runs as a command, in both kinds, and is killed at random moments; then its folder
is compared with that of a run that was left alone, file by file.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from janus import Janus
from janus.eval.benchmark import Benchmark, Item, Samples
from janus.eval.geneval import GenEval
from janus.eval.pope import POPE
from janus.eval.runner import Asking, answer, chosen, manner_of

_FREE = {"times.jsonl", "lock"}


def bare(model: Janus, benchmark: Benchmark, samples: Samples, asking: Asking) -> float:
    """Seconds of the model alone."""
    manner = manner_of(benchmark, asking)
    lines = chosen(benchmark, samples, asking)
    each = asking.each or benchmark.each
    items = [Item(i, j) for i in range(len(lines)) for j in range(each)]
    prompts = [benchmark.prompt(line) for line in lines]
    pictures = [[samples.pictures[name] for name in line.get("pictures", ())] for line in lines]
    began = time.monotonic()
    for start in range(0, len(items), asking.batch_size):
        some = items[start : start + asking.batch_size]
        asked = [prompts[item.sample] for item in some]
        if benchmark.kind == "answer":
            model.chat_batch(asked, [pictures[i.sample] for i in some], max_tokens=manner.max_tokens)
        else:
            seeds = [item.seed(asking.seed) for item in some]
            model.generate_images(asked, seed=seeds, batch_size=len(some))
    return time.monotonic() - began


def harness(model: Janus, benchmark: Benchmark, samples: Samples, asking: Asking) -> float:
    """Seconds of the same with all that `janus eval` does."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        answer(benchmark, samples, model, asking, Path(folder) / "run")
        return time.monotonic() - began


def overhead(model: Janus, benchmark: Benchmark, asking: Asking, rounds: int) -> None:
    began = time.monotonic()
    samples = benchmark.samples(None, False)
    reading = time.monotonic() - began
    count = len(chosen(benchmark, samples, asking)) * (asking.each or benchmark.each)
    alone, within = [], []
    for _ in range(rounds):
        alone.append(bare(model, benchmark, samples, asking))
        within.append(harness(model, benchmark, samples, asking))
    print(
        f"{benchmark.name}: {count} {benchmark.kind}s, bare {min(alone):.2f} s, "
        f"janus eval {min(within):.2f} s ({min(within) / min(alone) - 1:+.1%}), "
        f"{count / min(within):.1f} a second; making and reading {len(samples.lines)} samples "
        f"{reading:.2f} s",
        flush=True,
    )


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.name not in _FREE)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def killed(command: Sequence[str], out: Path, times: int, longest: float) -> int:
    """Run it, kill it at random moments, run it to its end; returns how often a kill met it at work."""
    rng, met = random.Random(0), 0
    for _ in range(times):
        with subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.DEVNULL) as process:
            try:
                process.wait(rng.random() * longest)
            except subprocess.TimeoutExpired:
                process.kill()
                met += 1
    subprocess.run([*command, "--out", str(out)], check=True, stdout=subprocess.DEVNULL)
    return met


def survive(benchmark: str, more: Sequence[str], times: int) -> None:
    command = [sys.executable, "-m", "janus", "eval", benchmark, "--dtype", "float32", *more]
    with tempfile.TemporaryDirectory() as folder:
        quiet, disturbed = Path(folder) / "quiet", Path(folder) / "disturbed"
        began = time.monotonic()
        subprocess.run([*command, "--out", str(quiet)], check=True, stdout=subprocess.DEVNULL)
        met = killed(command, disturbed, times, time.monotonic() - began)
        one, other = files(quiet), files(disturbed)
        differ = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
        print(f"{benchmark}: killed {met} times; {len(one)} files, different: {differ or 'none'}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", nargs="?", help="default: the one that ships with the package")
    parser.add_argument("--questions", type=int, default=320)
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--kills", type=int, default=0, help="kill `janus eval` so often (default: not at all)"
    )
    options = parser.parse_args()
    if options.kills:
        survive("pope", ["--limit", "200"], options.kills)
        survive("geneval", ["--limit", "40"], options.kills)
        return
    model = Janus.from_pretrained(options.model, dtype="float32")
    questions = Asking("m", limit=options.questions, batch_size=options.batch)
    overhead(model, POPE(), questions, options.rounds)
    pictures = Asking("m", limit=-(-options.pictures // 4), batch_size=options.batch)
    overhead(model, GenEval(), pictures, options.rounds)


if __name__ == "__main__":
    main()
