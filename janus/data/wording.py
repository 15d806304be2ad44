"""What can be said about a scene: GenEval's sentences and many others, and questions with their answers.

Mainly English, some Chinese.  All of it is made from the scene's description, so it is true; what a
picture leaves open is neither said nor asked: the colour of a thing in its own colours, of "the cat" where
there are several cats of different colours, the place of two things that GenEval's rule does not decide.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from janus.data import wording_en, wording_zh
from janus.data.facts import Facts, weighted
from janus.data.scenes import Scene, Thing, relation
from janus.data.wording_en import NUMBERS, article, geneval_plural, plural

__all__ = [
    "KINDS",
    "Answer",
    "article",
    "caption",
    "describe",
    "geneval_plural",
    "letters",
    "mentions",
    "plural",
    "prompt",
    "questions",
]

CHINESE = 0.12  # share of captions and questions
_GENEVAL = 0.4  # of the English captions of tidy scenes
# Kinds of question, and how often each is asked.
KINDS = {"what": 3, "count": 3, "colour": 4, "where": 4, "yes-no": 6, "choice": 3, "caption": 3}


@dataclass(frozen=True)
class Answer:
    """A question about a picture, its answer, and what it asks for."""

    kind: str  # what | count | colour | where | yes-no | choice | caption
    question: str
    answer: str  # for a choice the letter of the option


def prompt(scene: Scene) -> str:
    """GenEval's sentence for a tidy scene, such as "a photo of a dog right of a teddy bear".

    Raises ValueError for a scene that was made for no task, or whose two things stand in no relation.
    """
    things = scene.things
    if scene.kind is None:
        raise ValueError("only tidy scenes have a sentence of GenEval's; use caption or describe")
    if scene.kind == "counting":
        return f"a photo of {NUMBERS[len(things)]} {geneval_plural(things[0].name)}"
    between = "and"
    if scene.kind == "position":
        between = relation(things[0].box, things[1].box) or ""
        if not between:
            raise ValueError(f"no relation between {things[0].box} and {things[1].box} by GenEval's rule")
    named = [article(thing.words) for thing in things]
    return "a photo of " + f" {between} ".join(named)


def describe(scene: Scene) -> str:
    """The one most precise description: "a cat left of a red dog", "a cat, two cups and a dog"."""
    return wording_en.describe(Facts(scene))


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A prompt to draw the scene from; all colours that were painted are named."""
    if rng.random() < CHINESE:
        return wording_zh.caption(scene, Facts(scene), rng)
    if scene.kind is not None and rng.random() < _GENEVAL:
        return prompt(scene)
    return wording_en.caption(scene, Facts(scene), rng)


def mentions(text: str, scene: Scene) -> list[tuple[int, Thing]]:
    """Where a caption of the scene has named a thing: the place behind its last word, rising.

    Things that are named together, as in "two red cats", are one mention.
    """
    forms: dict[str, Thing] = {}
    for thing in scene.things:
        colour = thing.colour
        for name in (thing.name, plural(thing.name), geneval_plural(thing.name)):
            forms[name if colour is None else f"{colour} {name}"] = thing
        forms[thing.name if colour is None else f"{thing.name} that is {colour}"] = thing
        shade = "" if colour is None else f"{wording_zh.colour_of(colour)}的"
        forms[shade + wording_zh.name_of(thing.name)] = thing
    matches = [match for form in forms for match in _pattern(form).finditer(text)]
    matches.sort(key=lambda match: (match.start(), -match.end()))  # a teddy bear is no bear
    found: list[tuple[int, Thing]] = []
    for match in matches:
        if not found or match.start() >= found[-1][0]:
            found.append((match.end(), forms[match[0].lower()]))
    return found


@cache
def _pattern(form: str) -> re.Pattern[str]:
    return re.compile(rf"\b{re.escape(form)}\b" if form.isascii() else re.escape(form), re.IGNORECASE)


def letters(scene: Scene, rng: np.random.Generator, n: int) -> list[tuple[str, str]]:
    """A conversation of `n` turns about the letters of a choice's options, which needs no picture."""
    return wording_en.letters(Facts(scene), rng, n)


def questions(scene: Scene, rng: np.random.Generator, n: int, kinds: Sequence[str] = ()) -> list[Answer]:
    """`n` different questions that this scene answers without doubt; fewer only where there are not so many.

    What is there, how it is described, and each colour is asked for once at most.  With `kinds` only these
    are asked, unless the scene answers none of them.
    """
    facts = Facts(scene)
    possible = {kind: float(weight) for kind, weight in KINDS.items()}
    if not facts.uniform:
        del possible["colour"]
    if not facts.pairs:
        del possible["where"]
    possible = {kind: weight for kind, weight in possible.items() if kind in kinds} or possible
    total = sum(possible.values())
    shares = {kind: weight / total for kind, weight in possible.items()}
    found: dict[tuple[str, str], Answer] = {}
    for _ in range(20 * n):
        if len(found) == n:
            break
        kind = weighted(shares, rng)
        language = wording_zh if rng.random() < CHINESE else wording_en
        question, answer = language.ask(kind, facts, rng)
        asked = (kind, answer if kind in ("what", "colour", "caption") else question)
        found.setdefault(asked, Answer(kind, question, answer))
    return list(found.values())
