"""What guessing codes ahead saves (`window` of `janus.generation.decode`), and whether pictures stay.

    python benchmarks/speculation.py [MODEL] [--pictures 60] [--windows 1 4 8 16 32]

One picture at a time of GenEval's kinds of prompts (`janus.eval.prompts`), with each window in turn.  The
noise of each place is held fixed, so guessing ahead draws from the same distribution if and only if it draws
the very pictures of a window of 1, but for rounding; told is how many have other codes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict

import numpy as np
from drawn_codes import draw
from tqdm import tqdm

from janus import Janus
from janus.eval.prompts import COUNTS, make_prompts

SEED = 7  # of the prompts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", help="default: the one that ships with the package")
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--windows", type=int, nargs="+", default=[1, 4, 8, 16, 32])
    options = parser.parse_args()
    model = Janus.from_pretrained(options.model)
    each = -(-options.pictures // len(COUNTS))
    texts = [made["prompt"] for made in make_prompts(SEED, dict.fromkeys(COUNTS, each))][: options.pictures]
    own = model.config.drawing
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    model.model.core.register_forward_hook(count)
    draw(model, texts[:1], 0, own.guidance, own.temperature)  # warm
    times: dict[int, list[float]] = defaultdict(list)
    calls: dict[int, list[int]] = defaultdict(list)
    other: dict[int, int] = defaultdict(int)
    for number, text in enumerate(tqdm(texts, disable=None)):
        plain = draw(model, [text], number, own.guidance, own.temperature)
        for window in options.windows if number % 2 else options.windows[::-1]:
            passes, started = 0, time.perf_counter()
            codes = draw(model, [text], number, own.guidance, own.temperature, window)
            times[window].append(time.perf_counter() - started)
            calls[window].append(passes)
            other[window] += not np.array_equal(codes, plain)
    print("| window | passes a picture | ms a picture | times as fast | pictures with other codes |")
    print("|---|---|---|---|---|")
    base = statistics.median(times[options.windows[0]])
    for window in options.windows:
        took = times[window]
        shown = f"{1e3 * statistics.median(took):.0f} ({1e3 * min(took):.0f} to {1e3 * max(took):.0f})"
        print(
            f"| {window} | {statistics.mean(calls[window]):.1f} | {shown} | "
            f"{base / statistics.median(took):.2f} | {other[window]} of {len(texts)} |"
        )


if __name__ == "__main__":
    main()
