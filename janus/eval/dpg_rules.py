"""DPG-Bench's rules: what the answers to the questions about a prompt's pictures make of it.

`official` is `dpg_bench/compute_dpg_bench.py` of github.com/TencentQQGYLab/ELLA (commit 3c228f1), with its
defects; `fixed` mends them.  docs/evaluation.md explains them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from janus.eval.benchmark import Line, Mode

CATEGORIES = ("global", "entity", "attribute", "relation", "other")  # L1, in the order of the report's table
TILES = 4  # pictures of a prompt that the official script can see: two rows of two

Answers = Mapping[int, str]  # to the questions about one picture, by their rows
Read = Literal["yes", "no"] | None


@dataclass(frozen=True)
class Question:
    """A row of dpg_bench.csv."""

    row: int  # of the file, from 0
    number: int  # of the question among those about its prompt
    parents: tuple[int, ...]  # numbers of those that must hold for it to count; 0 is none
    about: str  # the column `tuple`: "attribute - color (cat, red)"
    text: str

    @property
    def category(self) -> str:
        """L2, as the official script names it: "attribute - color"."""
        return self.about.split("(")[0].strip()


@dataclass(frozen=True)
class Judged:
    """What became of one prompt."""

    score: float | None  # None: it is dropped
    tiles: tuple[float, ...] = ()  # of each picture
    categories: tuple[tuple[str, float], ...] = ()  # what counts for the scores of categories
    dropped: str = ""  # why


def broad(category: str) -> str:
    """L1 of an L2: what stands before the first hyphen."""
    return category.split("-")[0].strip()


def exactly(answer: str) -> Read:
    """The official script counts "yes", in these three letters, and nothing else."""
    return "yes" if answer == "yes" else "no" if answer == "no" else None


def leniently(answer: str) -> Read:
    """The first word, whatever its case and the marks around it."""
    words = re.findall(r"\w+", answer.casefold())
    return "yes" if words[:1] == ["yes"] else "no" if words[:1] == ["no"] else None


READ: dict[Mode, Callable[[str], Read]] = {"official": exactly, "fixed": leniently}


def official_questions(questions: Sequence[Question]) -> dict[int, Question]:
    """What the script knows of a prompt, by number (`prepare_dpg_data`).

    The first row of the file is passed over, as if it were the header.  Where the rows of a prompt do not
    stand together, only the last of the groups is left; of two questions of one number the later one.
    """
    kept: dict[int, Question] = {}
    before: int | None = None
    for question in questions:
        if question.row == 0:
            continue
        if before is not None and question.row != before + 1:
            kept = {}
        kept[question.number] = question
        before = question.row
    return kept


def official(name: str, questions: Sequence[Question], pictures: Sequence[Answers]) -> Judged:
    """As `compute_dpg_one_sample` has it.

    A child of a question that does not hold counts 0, but what is handed down so far depends on the order.
    Scores of categories come from the last picture alone, and from before that.  Whatever goes wrong drops
    the whole prompt.
    """
    if "." in name:
        return Judged(None, dropped="its name is cut at the first point")
    known = official_questions(questions)
    if not known:
        return Judged(None, dropped="there are no questions about it")
    tiles: list[float] = []
    first: dict[int, float] = {}
    for answers in pictures[:TILES]:
        first = {number: float(exactly(answers[one.row]) == "yes") for number, one in known.items()}
        scores = dict(first)
        for number, question in known.items():
            for parent in filter(None, question.parents):
                if parent not in scores:
                    return Judged(None, dropped=f"question {number} depends on {parent}, which is not there")
                if scores[parent] == 0:
                    scores[number] = 0.0
                    break
        tiles.append(sum(scores.values()) / len(scores))
    categories = tuple((known[number].category, score) for number, score in first.items())
    return Judged(sum(tiles) / len(tiles), tuple(tiles), categories)


def fixed(name: str, questions: Sequence[Question], pictures: Sequence[Answers]) -> Judged:
    """All rows and all pictures count; a question counts 0 if any that it depends on, by however many steps
    and in whatever order, does not hold.  Parents that are not there are no condition."""
    if not questions:
        return Judged(None, dropped="there are no questions about it")
    above = ancestors(questions)
    tiles, categories = [], []
    for answers in pictures:
        held = {one.row: leniently(answers[one.row]) == "yes" for one in questions}
        fell = {one.number for one in questions if not held[one.row]}
        scores = [held[one.row] and not above[one.number] & fell for one in questions]
        tiles.append(sum(scores) / len(scores))
        categories += [(one.category, float(held[one.row])) for one in questions]
    return Judged(sum(tiles) / len(tiles), tuple(tiles), tuple(categories))


JUDGE: dict[Mode, Callable[[str, Sequence[Question], Sequence[Answers]], Judged]] = {
    "official": official,
    "fixed": fixed,
}


def ancestors(questions: Sequence[Question]) -> dict[int, set[int]]:
    """By number, all that a question depends on, itself left out."""
    parents: dict[int, set[int]] = {}
    for one in questions:
        parents.setdefault(one.number, set()).update(one.parents)
    found = {}
    for number in parents:
        above: set[int] = set()
        new = set(parents[number])
        while new:
            above |= new
            new = {p for parent in new for p in parents.get(parent, ())} - above
        found[number] = above & parents.keys() - {number}
    return found


def summary(judged: Sequence[Judged]) -> Line:
    """Shares: `overall`, the mean over prompts; `l1` and `l2`, means over the questions of a category.

    Categories come from before zeros are handed down, so that overall is no mean of them.
    """
    scores = [one.score for one in judged if one.score is not None]
    narrow: dict[str, list[float]] = {}
    for category, score in (pair for one in judged if one.score is not None for pair in one.categories):
        narrow.setdefault(category, []).append(score)
    return {
        "overall": float(np.mean(scores)) if scores else None,
        "l1": means(by_broad(narrow)),
        "l2": means(narrow),
    }


def by_broad(narrow: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Scores by L1, from those by L2."""
    found: dict[str, list[float]] = {}
    for category, scores in narrow.items():
        found.setdefault(broad(category), []).extend(scores)
    return found


def means(groups: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: float(np.mean(scores)) for name, scores in groups.items() if scores}


def gathered(
    ranks: Sequence[Mapping[str, Sequence[float]]], orders: Sequence[Sequence[str]]
) -> dict[str, list[float]]:
    """Scores by L2 as the official script gathers them from several processes.

    ranks: what each has found.  orders: in which each walks the set of all categories, which differs from
    process to process as their hashes of text do.  In every step each hands in a category of its own, and the
    first process files them all under the name of its own: categories get mixed.
    """
    return {
        orders[0][step]: [
            score for found, order in zip(ranks, orders, strict=True) for score in found.get(order[step], ())
        ]
        for step in range(len(orders[0]))
    }
