"""Samples and detections for GenEval's rules, the same on every machine: many near the rules' edges.

`golden/geneval.json` holds the verdicts of the official `evaluate_images.py` on them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from janus.eval.geneval_rules import Seen

NAMES = ("cat", "dog", "cup")
COLOURS = ("red", "blue", "green")
RELATIONS = ("left of", "right of", "above", "below")
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
SCORES = (0.3, 0.9, 0.30000004, 0.90000004, 0.29999998, 0.8999999, 0.31, 0.91, 0.95, 0.5)


def cases(count: int) -> Iterator[tuple[dict[str, Any], list[Seen]]]:
    """Lines of metadata with what a detector saw; scores of one class are all different."""
    rng = random.Random(5)  # only random() is promised to stay the same across versions of Python

    def pick(many: Any) -> Any:
        return many[int(rng.random() * len(many))]

    for _ in range(count):
        task, sure = pick(TASKS), rng.random() < 0.5
        most = 20 if rng.random() < 0.1 else 5
        found = [seen for name in NAMES for seen in _things(name, int(rng.random() * most), sure, rng, pick)]
        yield _line(task, rng, pick), found


def _things(name: str, count: int, sure: bool, rng: random.Random, pick: Any) -> list[Seen]:
    """`sure`: with confident scores for the most part, and of one colour."""
    scores: set[float] = set()
    least, edge, usual = (0.9, 0.1, pick(COLOURS)) if sure else (0.2, 0.3, None)
    while len(scores) < count:
        scores.add(pick(SCORES) if rng.random() < edge else round(least + (1 - least) * rng.random(), 6))
    things = []
    for score in sorted(scores, key=lambda _: rng.random()):
        step = pick((1, 4, 10))
        left, top = (step * int(rng.random() * 90 / step) for _ in range(2))
        width, height = (step * (1 + int(rng.random() * 30 / step)) for _ in range(2))
        shift = 0.5 if rng.random() < 0.2 else 0.0
        box = (left + shift, top + shift, left + width + shift, top + height + shift)
        things.append(Seen(name, score, box, usual or pick(COLOURS)))
    return things


def _line(task: str, rng: random.Random, pick: Any) -> dict[str, Any]:
    first = pick(NAMES)
    second = NAMES[(NAMES.index(first) + 1 + int(rng.random() * 2)) % 3]
    number = 1 + int(rng.random() * 3)
    if task in ("single_object", "colors"):
        include = [_clause(first, number if rng.random() < 0.2 else 1)]
    elif task == "counting":
        include = [_clause(first, 1 + number)]
    else:
        include = [_clause(first, number if rng.random() < 0.2 else 1), _clause(second, 1)]
    if task in ("colors", "color_attr"):
        include = [clause | {"color": pick(COLOURS)} for clause in include]
    if task == "position":
        include[1]["position"] = [pick(RELATIONS), 0]
        if rng.random() < 0.2:
            include[0]["color"] = pick(COLOURS)
    line: dict[str, Any] = {"tag": task, "include": include, "prompt": "-"}
    if task == "counting":
        line["exclude"] = [_clause(first, include[0]["count"] + 1)]
    return line


def _clause(name: str, count: int) -> dict[str, Any]:
    return {"class": name, "count": count}
