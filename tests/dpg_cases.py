"""Prompts with questions and made-up answers for DPG-Bench's rules, the same on every machine.

`golden/dpg.json` holds what the official `compute_dpg_bench.py` makes of them.
"""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Sequence
from typing import Any

L2 = (
    *("entity - whole", "entity - whole", "entity - part", "entity - state", "attribute - color"),
    *("attribute - other", "attribute - shape", "attribute - size", "attribute - texture"),
    *("relation - spatial", "relation - non-spatial", "other - count", "other - text", "global - ", "global"),
)  # fmt: skip
COLUMNS = (
    *("item_id", "text", "keywords", "proposition_id", "dependency", "category_broad", "category_detailed"),
    *("tuple", "question_natural_language"),
)  # fmt: skip
SOURCES = ("partiprompts", "COCOval2014", "vrd", "drawtext", "")
OTHERS = ("Yes", "yes.", " yes", "YES", "", "yes, it is", "maybe", "No", "nope")
Row = dict[str, str]


def rows(count: int) -> list[Row]:
    """Of dpg_bench.csv, about so many prompts.

    Questions depend on some before them, or after, on themselves, on none, on such as are not there; some
    prompts stand in two places of the file, some have two questions of one number.
    """
    rng = random.Random(10)  # only random() is promised to stay the same across versions of Python
    blocks: list[list[Row]] = []
    for item in range(count):
        own = _questions(f"{_pick(SOURCES, rng)}{item}", rng)
        cut = int(rng.random() * len(own)) if rng.random() < 0.05 else 0
        blocks += [own[:cut], own[cut:]]
    blocks.sort(
        key=lambda block: rng.random() if len(block) < 3 else 0.5
    )  # short ones away from their others
    found = [row for block in blocks for row in block]
    for place, row in enumerate(found):
        row["question_natural_language"] = f'Is it "{place}", or not?'
    return found


def _questions(name: str, rng: random.Random) -> list[Row]:
    wild = rng.random() < 0.15
    numbers = list(range(1, 2 + int(rng.random() * 17)))
    if wild and rng.random() < 0.5:
        numbers.sort(key=lambda _: rng.random())
    if wild and rng.random() < 0.3:
        numbers.append(numbers[0])
    found = []
    for place, number in enumerate(numbers):
        parents = ["0"]
        if place and rng.random() < 0.6:
            known = numbers if wild else numbers[:place]
            some = {_pick(known, rng) for _ in range(1 + int(rng.random() * 3))}
            if wild and rng.random() < 0.1:
                some |= {_pick((0, 99), rng)}
            parents = [str(parent) for parent in sorted(some, key=lambda _: rng.random())]
        row = dict.fromkeys(COLUMNS, "-") | {"item_id": name, "text": f"A prompt, {name}."}
        row |= {"proposition_id": str(number), "dependency": _pick((", ", ",", " ,"), rng).join(parents)}
        found.append(row | {"tuple": f"{_pick(L2, rng)} (thing ({number}), -)"})
    return found


def answers(count: int) -> list[list[str]]:
    """To so many questions, each about four pictures."""
    rng = random.Random(11)
    return [[_answer(rng) for _ in range(4)] for _ in range(count)]


def _answer(rng: random.Random) -> str:
    sure = rng.random()
    return "yes" if sure < 0.75 else "no" if sure < 0.93 else _pick(OTHERS, rng)


def as_csv(lines: Sequence[Row]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def _pick(many: Any, rng: random.Random) -> Any:
    return many[int(rng.random() * len(many))]
