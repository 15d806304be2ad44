"""What `janus eval` costs beside what the model does anyway, and whether ten kills change anything.

    python benchmarks/evaluation.py [MODEL] [--questions 320] [--pictures 256] [--kills 10]

Both are measured in one run: the seconds within `Janus.chat_batch` and `Janus.generate_images`, and all
others that `janus.eval.runner.answer` takes from samples to a finished folder, with everything that it reads,
writes and puts on the disk.  (Two runs beside each other differ by more than that on a busy machine.)
Reading the data is given by itself.

With --kills, `janus eval` runs as a command, in both kinds, and is killed at random moments; then its folder
is compared with that of a run that was left alone, file by file.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from janus import Janus
from janus.eval.benchmark import Benchmark
from janus.eval.geneval import GenEval
from janus.eval.pope import POPE
from janus.eval.runner import Asking, answer

_FREE = {"times.jsonl", "lock"}
_SILENT: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


@contextmanager
def timed(model: Janus) -> Iterator[list[float]]:
    """The seconds of each call of the model."""
    taken: list[float] = []
    kept = {name: getattr(model, name) for name in ("chat_batch", "generate_images")}
    for name, method in kept.items():

        def call(*arguments: Any, _method: Any = method, **more: Any) -> Any:
            began = time.monotonic()
            try:
                return _method(*arguments, **more)
            finally:
                taken.append(time.monotonic() - began)

        setattr(model, name, call)
    try:
        yield taken
    finally:
        for name in kept:
            delattr(model, name)


def overhead(model: Janus, benchmark: Benchmark, asking: Asking) -> None:
    began = time.monotonic()
    samples = benchmark.samples(None, False)
    reading = time.monotonic() - began
    with tempfile.TemporaryDirectory() as folder, timed(model) as taken:
        began = time.monotonic()
        count = answer(benchmark, samples, model, asking, Path(folder) / "run")
        whole = time.monotonic() - began
    alone = sum(taken)
    rest = whole - alone
    print(
        f"{benchmark.name}: {count} {benchmark.kind}s in {whole:.2f} s, {count / whole:.1f} a second; "
        f"the model {alone:.2f} s, the harness {rest:.2f} s ({rest / alone:.1%} more); "
        f"making and reading {len(samples.lines)} samples {reading:.2f} s",
        flush=True,
    )


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.name not in _FREE)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def killed(command: Sequence[str], out: Path, times: int, longest: float) -> None:
    """Run it, kill it at random moments, and run it to its end; from the beginning if it ends too soon."""
    rng, met = random.Random(0), 0
    while met < times:
        with subprocess.Popen([*command, "--out", str(out)], **_SILENT) as process:
            try:
                process.wait(rng.random() * longest / 2)
            except subprocess.TimeoutExpired:
                process.kill()
                met += 1
                continue
        shutil.rmtree(out)
        met = 0
    subprocess.run([*command, "--out", str(out)], check=True, **_SILENT)


def survive(benchmark: str, more: Sequence[str], times: int) -> None:
    command = [sys.executable, "-m", "janus", "eval", benchmark, "--dtype", "float32", *more]
    with tempfile.TemporaryDirectory() as folder:
        quiet, disturbed = Path(folder) / "quiet", Path(folder) / "disturbed"
        began = time.monotonic()
        subprocess.run([*command, "--out", str(quiet)], check=True, **_SILENT)
        killed(command, disturbed, times, time.monotonic() - began)
        one, other = files(quiet), files(disturbed)
        differ = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
        print(
            f"{benchmark}: killed {times} times; {len(one)} files, different: {differ or 'none'}", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", nargs="?", help="default: the one that ships with the package")
    parser.add_argument("--questions", type=int, default=320)
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
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
    overhead(model, POPE(), questions)
    pictures = Asking("m", limit=-(-options.pictures // 4), batch_size=options.batch)
    overhead(model, GenEval(), pictures)


if __name__ == "__main__":
    main()
