"""What each way of saving time saves: the same work with it and without it, in turn.

    python benchmarks/optimisations.py                                the Janus-Pro-1B shape in bfloat16
    python benchmarks/optimisations.py --preset tiny --dtype float32  seconds

Random weights; the last two rows are of the model that ships with the package.  Fewer bits are in
`speed.py`, guessing codes ahead is in `speculation.py`, experts are in `experts.py`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from unittest import mock

import torch
from speed import GUIDANCE, no_compiler

from janus import Janus, bench
from janus.generation import Decoding, decode, decode_together
from janus.model import JanusModel
from janus.parties import Group, Kind
from janus.prompts import Prompt
from janus.sampling import Sampling

Work = Callable[[], object]
MANY = 8  # rows
LONG = 64  # tokens of a long prompt for a picture
_START = "from janus.cli import main; main(['generate', 'a photo of a red cup', '-o', {!r}])"
_QUESTIONS = ["What is it?", "What is in the picture?", "Describe the picture.", "How many things are there?"]


def prompts(count: int, length: int) -> list[Prompt]:
    """Different ones."""
    return [Prompt([row + 1] * length) for row in range(count)]


def group(asked: Sequence[Prompt], kind: Kind, new_tokens: int, guided: bool = False) -> Group:
    return Group(
        asked,
        kind=kind,
        new_tokens=new_tokens,
        sampling=Sampling(),
        generators=[torch.Generator().manual_seed(row) for row in range(len(asked))],
        unconditional=[Prompt([0] * len(p.ids)) for p in asked] if guided else (),
        guidance=GUIDANCE if guided else None,
    )


def of_shape(model: JanusModel, context: int, steps: int) -> dict[str, tuple[Work, Work]]:
    one, many = prompts(1, context), prompts(MANY, context)
    long = prompts(MANY, LONG)

    def draw(asked: Sequence[Prompt], guided: bool, times: int = 1) -> None:
        for _ in range(times):
            for _ in decode(model, group(asked, "image", steps, guided)):
                pass

    def first(asked: Sequence[Prompt]) -> None:
        next(decode(model, group(asked, "image", 2)))

    def uncompiled() -> None:
        with no_compiler(model):
            draw(one, True)

    def together() -> None:
        groups = [group(one, "image", steps, True), group(many[:2], "text", steps)]
        for _ in decode_together(model, groups):
            pass

    def apart() -> None:
        draw(one, True)
        for _ in decode(model, group(many[:2], "text", steps)):
            pass

    return {
        "a step in one call of the compiled kernels": (lambda: draw(one, True), uncompiled),
        "both rows of guidance in one step": (
            lambda: draw(one, True),
            lambda: draw(one, False, 2),
        ),
        f"{MANY} pictures in one step": (
            lambda: draw(one * MANY, False),
            lambda: draw(one, False, MANY),
        ),
        f"a prompt of {LONG} tokens read once for {MANY} pictures": (
            lambda: first(long[:1] * MANY),
            lambda: first(long),
        ),
        "a picture and two answers in the same steps": (together, apart),
    }


def of_the_shipped() -> dict[str, tuple[Work, Work]]:
    model = Janus.from_pretrained(device="cpu")
    pictures = model.generate_images("a photo of two cups", n=MANY, seed=0)
    questions = [_QUESTIONS[row % len(_QUESTIONS)] for row in range(MANY)]

    def ask() -> object:
        return model.chat_batch(questions, [[picture] for picture in pictures])

    def stay() -> object:
        with mock.patch.object(Decoding, "_leave", _leave_last):
            return ask()

    return {f"of {MANY} answers, those that have ended leave": (ask, stay), "no timm for drawing": _starts()}


_leave = Decoding._leave


def _leave_last(decoding: Decoding) -> None:
    """All requests stay until the last one has ended."""
    if all(row.request.ended for row in decoding._rows):
        _leave(decoding)


def _starts() -> tuple[Work, Work]:
    """The command from its start to its end, with nothing that it does not need, and with timm."""

    def run(before: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            code = before + _START.format(folder)
            subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

    return lambda: run(""), lambda: run("import timm; ")


def seconds(work: Work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="janus-pro-1b", choices=["tiny", "janus-pro-1b", "janus-pro-7b"])
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--context", type=int, default=8, help="tokens before; reading them counts, too")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    model = bench.open_model(options.preset, "cpu", options.dtype)
    pairs = of_shape(model, options.context, options.steps) | of_the_shipped()
    print("| | with, s | without, s | times as fast |\n|---|---|---|---|")
    for name, pair in pairs.items():
        times: list[list[float]] = [[], []]
        for number in range(options.rounds + 1):  # the first one warms up
            for place in (0, 1) if number % 2 else (1, 0):
                times[place].append(seconds(pair[place]))
        told = [times[place][1:] for place in (0, 1)]
        middle = [statistics.median(own) for own in told]
        shown = [f"{m:.2f} ({min(own):.2f} to {max(own):.2f})" for m, own in zip(middle, told, strict=True)]
        print(f"| {name} | {shown[0]} | {shown[1]} | {middle[1] / middle[0]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
