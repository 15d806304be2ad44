"""Answers, judges' replies and whole result files for MM-Vet's rules, the same on every machine.

`golden/mmvet.json` holds what the official `mm-vet_evaluator.py` makes of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from janus.eval.mmvet_rules import CAPABILITIES

NUMBERS = tuple(f"{tenths / 10:.1f}" for tenths in range(11))
READABLE = (
    *("1", "0", "0.25", "0.123456789", ".5", "1.", "1e-1", "1E0", "+0.5", "-0.0", "0_1", "nan", "-NaN"),
    *("0.5 ", "\n0.6", "0.7\n", "\t0.8", "\u00a00.9", "0.3 (partly right)", "0.4 | 1.0", "٠.٥", "0.0 0.9"),
)
UNREADABLE = (
    *("", " ", " 0.5", "0.5.", "0.5,", "**0.5**", "0.5|", "0.5\n1.0", "0.5\t0.7", "1/2", "50%", "½", "none"),
    *("-0.1", "1.1", "2", "10", "1_0", "inf", "-inf", "1e400", "0x1", "True", "Correctness: 1.0", "0,5"),
    "0.5\u200b",
)  # fmt: skip
WORDS = ("x", "-1", "5", "the meme", "red", "Iceland", "3.5 kg", "|", "\n", "ä", "<AND>", "<OR>", " <AND> ")


def judged(count: int) -> Iterator[tuple[str, str, str, list[str]]]:
    """Question, truth, answer, and five replies of a judge."""
    rng = random.Random(8)  # only random() is promised to stay the same across versions of Python
    for _ in range(count):
        question, truth, answer = (_text(rng, most) for most in (6, 5, 8))
        sure = rng.random()
        pools = [NUMBERS if rng.random() < sure else READABLE + UNREADABLE * 3 for _ in range(5)]
        yield question, truth, answer, [_pick(pool, rng) for pool in pools]


def files(count: int) -> Iterator[tuple[dict[str, list[str]], dict[str, list[str]]]]:
    """By question: its capabilities, and the first reply of a judge in each of several runs."""
    rng = random.Random(9)
    for number in range(count):
        runs = (1, 1, 3, 5)[number % 4]
        capabilities, replies = {}, {}
        for index in range(1 + int(rng.random() * 218)):
            name = f"v1_{index}"
            some = [capability for capability in CAPABILITIES if rng.random() < 0.4]
            capabilities[name] = some or [_pick(CAPABILITIES, rng)]
            if rng.random() < 0.1:  # in another order, and one of them twice
                capabilities[name] = [*capabilities[name][::-1], capabilities[name][0]]
            replies[name] = [_grade(number, rng) for _ in range(runs)]
        yield capabilities, replies


def _grade(number: int, rng: random.Random) -> str:
    if number == 7 and rng.random() < 0.01:
        return "nan"
    return _pick(NUMBERS, rng) if rng.random() < 0.9 else f"{rng.random():.3f}"


def _text(rng: random.Random, most: int) -> str:
    return " ".join(_pick(WORDS, rng) for _ in range(1 + int(rng.random() * most)))


def _pick(many: Any, rng: random.Random) -> Any:
    return many[int(rng.random() * len(many))]
