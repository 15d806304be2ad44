"""What can be said about a scene: GenEval's sentences and many others, and questions with their answers.

Mainly English, some Chinese.  All of it is made from the scene's description, so it is true; what a
picture leaves open is neither said nor asked: the colour of a thing in its own colours, of "the cat" where
there are several cats of different colours, the place of two things that GenEval's rule does not decide.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from janus.data import wording_en, wording_zh
from janus.data.facts import Facts, weighted
from janus.data.scenes import COLOURS, NAMES, Scene, Thing, relation
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
    "named",
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
    return [(end, things[-1]) for _, end, things in named(text, scene) if things]


def named(text: str, scene: Scene) -> Iterator[tuple[int, int, list[Thing]]]:
    """From where to where a text names things, and which of the scene's they are, none for absent ones.

    Words for a colour count if a thing of that name has it.
    """
    pattern, names, shades = _forms()
    for match in pattern.finditer(text):
        name = names[(match["name"] or match["zh_name"]).lower()]
        shade = match["shade"] or match["behind"] or match["zh_shade"]
        things = [thing for thing in scene.things if thing.name == name]
        if not things and name in COLOURS:
            continue  # an orange, or the colour
        if shade:
            things = [thing for thing in things if thing.colour == shades[shade.lower()]] or things
        yield match.start(), match.end(), things


@cache
def _forms() -> tuple[re.Pattern[str], dict[str, str], dict[str, str]]:
    """What finds a name and its colour, the classes by all forms of their names, the colours likewise."""
    english = {form(name): name for name in NAMES for form in (str, plural, geneval_plural)}
    chinese = {wording_zh.name_of(name): name for name in NAMES}
    shades = {colour: colour for colour in COLOURS}
    chinese_shades = {wording_zh.colour_of(colour): colour for colour in COLOURS}

    def any_of(forms: dict[str, str]) -> str:  # a teddy bear is no bear
        return "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))

    colour = any_of(shades)
    pattern = re.compile(
        rf"\b(?:(?P<shade>{colour}) )?(?P<name>{any_of(english)})\b(?: that is (?P<behind>{colour})\b)?"
        rf"|(?:(?P<zh_shade>{any_of(chinese_shades)})的)?(?P<zh_name>{any_of(chinese)})",
        re.IGNORECASE,
    )
    return pattern, english | chinese, shades | chinese_shades


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
