"""What scenes show, before anything has its place: which things, how many of each, in which colours."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import combinations
from typing import Literal

import numpy as np

from janus.data.paint import things_table

Kind = Literal["single_object", "two_object", "counting", "colors", "position", "color_attr"]
Subject = tuple[str, str | None]  # a class and the colour it is painted in, None for the drawing's own

NAMES: tuple[str, ...] = tuple(things_table()["classes"])  # GenEval's eighty
COLOURS: tuple[str, ...] = tuple(things_table()["colours"])  # GenEval's ten
UNPAINTED = frozenset({"person"})  # GenEval never asks for a coloured person
HELD_OUT = 0.05  # of the pairs of classes, of colour and class, of number and class
# How many of the tidy scenes are made for each of GenEval's tasks: more where there is more to learn.
SHARES: dict[Kind, float] = {
    "single_object": 0.10,
    "two_object": 0.18,
    "counting": 0.18,
    "colors": 0.16,
    "position": 0.20,
    "color_attr": 0.18,
}
COUNTED = (2, 3, 4)  # what GenEval's counting asks for
HOW_MANY = (0.24, 0.26, 0.18, 0.14, 0.10, 0.08)  # of the varied scenes, show one thing, two, ... six


def held_out(subjects: Sequence[Subject]) -> bool:
    """Whether these things together are a combination that no training scene shows.

    Held out are pairs of classes, painted colours of a class, and numbers (from two) of a class, about
    `HELD_OUT` of each: a combination is out when the first eight bytes of the SHA-256 of its text, such as
    "cat + dog" (in the order of the alphabet), "red cat" or "3 cat", are a number in the lowest part of
    all there are.  So the set is the same everywhere, always.
    """
    counts = Counter(name for name, _ in subjects)
    return (
        any(_out(f"{name} + {other}") for name, other in combinations(sorted(counts), 2))
        or any(_out(f"{colour} {name}") for name, colour in subjects if colour is not None)
        or any(_out(f"{count} {name}") for name, count in counts.items() if count > 1)
    )


@cache
def _out(combination: str) -> bool:
    digest = hashlib.sha256(combination.encode()).digest()
    return int.from_bytes(digest[:8], "big") < HELD_OUT * 2**64


def some_kind(rng: np.random.Generator, for_scoring: bool = False) -> Kind:
    """One of GenEval's tasks, by their shares; one thing in its own colours can't be held out."""
    shares = {k: v for k, v in SHARES.items() if not (for_scoring and k == "single_object")}
    weights = np.array(list(shares.values()))
    return list(shares)[rng.choice(len(shares), p=weights / weights.sum())]


def tidy_subjects(
    kind: Kind, names: Sequence[str], rng: np.random.Generator, for_scoring: bool = False
) -> list[Subject]:
    """What a tidy scene for this task shows; with `for_scoring` always a held-out combination, else never.

    Raises ValueError for an unknown task, and where held-out ones are asked of a task that has none.
    """
    if kind not in SHARES:
        raise ValueError(f"no task {kind!r}, GenEval's are {', '.join(SHARES)}")
    if for_scoring and kind == "single_object":
        raise ValueError("single objects are in training, all of them; no combination of them is held out")
    for _ in range(10_000):
        subjects = _subjects_for(kind, names, rng)
        if held_out(subjects) == for_scoring:
            return subjects
    raise ValueError(f"found no {'held-out ' * for_scoring}scene for {kind} among {', '.join(names)}")


def _subjects_for(kind: Kind, names: Sequence[str], rng: np.random.Generator) -> list[Subject]:
    if kind == "counting":
        return [(_one_of(names, rng), None)] * int(rng.choice(COUNTED))
    if kind == "single_object":
        return [(_one_of(names, rng), None)]
    if kind in ("two_object", "position"):
        return [(name, None) for name in _some_of(names, 2, rng)]
    paintable = [name for name in names if name not in UNPAINTED]
    count = 1 if kind == "colors" else 2
    colours = _some_of(COLOURS, count, rng)
    return list(zip(_some_of(paintable, count, rng), colours, strict=True))


def varied_subjects(names: Sequence[str], rng: np.random.Generator) -> list[Subject]:
    """What a varied scene shows, never a held-out combination: several of one class, of all different
    classes, or a mixture; painted or not, things of one class mostly alike."""
    for _ in range(10_000):
        classes = _classes(names, int(rng.choice(len(HOW_MANY), p=HOW_MANY)) + 1, rng)
        alike = {name: (_some_colour(name, rng), rng.random() < 0.75) for name in dict.fromkeys(classes)}
        subjects = [(name, alike[name][0] if alike[name][1] else _some_colour(name, rng)) for name in classes]
        if not held_out(subjects):
            return subjects
    raise ValueError(f"found no scene that is not held out among {', '.join(names)}")


def _classes(names: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    kind = rng.random()
    if count == 1 or kind < 0.3:
        return [_one_of(names, rng)] * count
    if kind < 0.6 or count == 2:
        return _some_of(names, min(count, len(names)), rng)
    some = _some_of(names, min(int(rng.integers(2, count)), len(names)), rng)
    return some + [_one_of(some, rng) for _ in range(count - len(some))]


def _some_colour(name: str, rng: np.random.Generator) -> str | None:
    return _one_of(COLOURS, rng) if name not in UNPAINTED and rng.random() < 0.5 else None


def _one_of(values: Sequence[str], rng: np.random.Generator) -> str:
    return values[int(rng.integers(len(values)))]


def _some_of(values: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    """Different ones.  Raises ValueError where there are not as many."""
    return [values[i] for i in rng.choice(len(values), count, replace=False)]
