"""Prompts of GenEval's six tasks, made from a seed, in the form of its `evaluation_metadata.jsonl`.

    python -m janus.eval.prompts [--seed N] [--combinations trained | held-out] > prompts.jsonl

Words and numbers of prompts follow the official 553, so that the two sets ask the same of a model.
"Held-out" are combinations that the embedded model's training never shows (`janus.data.subjects.held_out`):
pairs of classes, colours of a class and numbers of a class; "trained" are the others.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from janus.data.layouts import RELATIONS
from janus.data.subjects import COLOURS, NAMES, held_out
from janus.data.wording_en import NUMBERS, article, geneval_plural

# Prompts of each task, in the order of the official file.
COUNTS = {
    "single_object": 80,
    "two_object": 99,
    "counting": 80,
    "colors": 94,
    "position": 100,
    "color_attr": 100,
}
TASKS = tuple(COUNTS)
_TRIES = 1000  # lines made for each that is kept, at most
_MOST = {"single_object": 80, "counting": 3 * 80, "colors": 79 * 10}  # as many different ones there are


def make_prompts(
    seed: int = 0, counts: Mapping[str, int] = COUNTS, keep: Callable[[dict[str, Any]], bool] | None = None
) -> list[dict[str, Any]]:
    """Lines of metadata, as many of each task as `counts` says, no two alike.

    Single objects are the classes in a random order.  Persons never get a colour, as in the official set.
    With `keep`, only lines for which it is true, fewer where there are not so many.  Raises ValueError for an
    unknown task, and for more prompts than a task has.
    """
    for task, count in counts.items():
        if task not in TASKS:
            raise ValueError(f"unknown task {task!r}; there are {', '.join(TASKS)}")
        if count > _MOST.get(task, 1000):
            raise ValueError(f"at most {_MOST.get(task, 1000)} prompts of {task}, not {count}")
    rng = np.random.default_rng(seed)
    lines: dict[str, dict[str, Any]] = {}
    for task, count in counts.items():
        order = rng.permutation(NAMES)
        before = len(lines)
        for _ in range(_TRIES * count):
            if len(lines) == before + count:
                break
            line = _line(task, str(order[(len(lines) - before) % len(NAMES)]), rng)
            if keep is None or keep(line):
                lines.setdefault(line["prompt"], line)
    return list(lines.values())


def _line(task: str, name: str, rng: np.random.Generator) -> dict[str, Any]:
    """One line; only single objects take `name`, which is the next in order."""
    if task == "single_object":
        return _metadata(task, [_clause(name)], f"a photo of {article(name)}")
    if task == "counting":
        name, number = str(rng.choice(NAMES)), int(rng.integers(2, 5))
        line = _metadata(
            task, [_clause(name, number)], f"a photo of {NUMBERS[number]} {geneval_plural(name)}"
        )
        prompt = line.pop("prompt")
        return line | {"exclude": [_clause(name, number + 1)], "prompt": prompt}
    coloured = task in ("colors", "color_attr")
    first, second = (str(x) for x in rng.choice(NAMES[1:] if coloured else NAMES, 2, replace=False))
    shade, other = (str(x) for x in rng.choice(COLOURS, 2, replace=False))
    if task == "colors":
        return _metadata(task, [_clause(first) | {"color": shade}], f"a photo of {article(shade)} {first}")
    if task == "color_attr":
        clauses = [_clause(first) | {"color": shade}, _clause(second) | {"color": other}]
        words = f"a photo of {article(shade)} {first} and {article(other)} {second}"
        return _metadata(task, clauses, words)
    if task == "position":
        where = str(rng.choice(RELATIONS))
        clauses = [_clause(second), _clause(first) | {"position": [where, 0]}]
        return _metadata(task, clauses, f"a photo of {article(first)} {where} {article(second)}")
    words = f"a photo of {article(first)} and {article(second)}"
    return _metadata(task, [_clause(first), _clause(second)], words)


def _metadata(task: str, include: list[dict[str, Any]], prompt: str) -> dict[str, Any]:
    return {"tag": task, "include": include, "prompt": prompt}


def _clause(name: str, count: int = 1) -> dict[str, Any]:
    return {"class": name, "count": count}


def shows_held_out(line: dict[str, Any]) -> bool:
    """Whether a line of metadata asks for a combination that the embedded model's training never shows."""
    things = [(clause["class"], clause.get("color")) for clause in line["include"]]
    return held_out(
        [thing for thing, clause in zip(things, line["include"], strict=True) for _ in range(clause["count"])]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m janus.eval.prompts", description="Make prompts as GenEval's."
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--combinations",
        choices=("trained", "held-out"),
        help="only those that the embedded model's training shows, or only those that it never does (there "
        "are none of single objects); default: any",
    )
    arguments = parser.parse_args()
    wanted = {None: (True, False), "trained": (False,), "held-out": (True,)}[arguments.combinations]
    counts = dict(COUNTS) if False in wanted else {k: n for k, n in COUNTS.items() if k != "single_object"}
    for line in make_prompts(arguments.seed, counts, lambda line: shows_held_out(line) in wanted):
        print(json.dumps(line))


if __name__ == "__main__":
    main()
