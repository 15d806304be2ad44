"""Where the words of a conversation about a scene should look: at the patches of what they name, or at the
option that an answer chooses.

`janus.train.looking` makes a loss of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from janus.data.records import Carried, Level, Pointer
from janus.data.scenes import Scene, Thing
from janus.data.wording import named
from janus.data.wording_en import LETTERS
from janus.tokenizers.chat import Message

_OPTION = re.compile(rf"^([{LETTERS}])\. (.+)$", re.MULTILINE)
_PLACE = re.compile(r"\b(?:left|right|top|bottom|above|below)\b|左边|右边|上面|下面")  # a laptop is none


class _Look(NamedTuple):
    """Of a message's characters from one to another, at these things."""

    level: Level
    begin: int
    end: int
    things: list[Thing]
    placed: bool = False  # where in the picture the thing is, if it is one, is carried along


def pointers(
    scene: Scene, messages: Sequence[Message], patches: Sequence[Thing | None] = ()
) -> tuple[tuple[Pointer, ...], tuple[Carried, ...]]:
    """Where a conversation's words should look, and the letters that options should carry.

    `patches` are what each patch of the picture shows; without them there is none, and users' words look for
    options.  What a question names in vain looks at nothing.
    """
    found: list[Pointer] = []
    carried: list[Carried] = []
    options: dict[str, tuple[int, int, str]] = {}  # by letter: message, end and words of each
    asked: list[list[Thing]] = []  # what the last question names
    question = ""
    shown: dict[int, list[int]] = {}  # the patches of each thing, by its identity: two may be equal
    for patch, thing in enumerate(patches):
        shown.setdefault(id(thing), []).append(patch)

    for number, message in enumerate(messages):
        text: str = message["content"]
        names = list(named(text, scene)) if patches else []
        looks: list[_Look] = []
        if message["role"] == "user":
            if listed := list(_OPTION.finditer(text)):
                options = {one[1]: (number, one.end(), one[2]) for one in listed}
                carried += [Carried(number, one.end(), one[1]) for one in listed]
            taken = {end for where, end, _ in options.values() if where == number}  # by letters
            looks = [_Look("first", end, end + 1, things, end not in taken) for _, end, things in names]
            asked, question = [things for *_, things in names], text.removesuffix("?")
            if not patches:  # the last line is the words of an option
                found += [
                    Pointer("first", number, len(question), words=((where, end),))
                    for where, end, words in options.values()
                    if words == question.rsplit("\n", 1)[-1]
                ]
        elif text in options:
            where, end, words = options[text]
            found.append(Pointer("third", number, 0, words=((where, end),)))
            if patches:
                looks = list(_choosing(words, asked, scene))
            else:
                found.append(Pointer("first", number, 0, words=((number - 1, len(question)),)))
        else:
            told = [(end, things) for _, end, things in names if things]
            looks = list(_saying(text, told, asked, scene))
            if len(asked) == 2 and (claimed := _PLACE.search(question)):  # that it is there, or not
                found.append(Pointer("third", number, 0, words=((number - 1, claimed.end()),)))
        for level, begin, end, things, placed in looks:
            seen = sorted(patch for thing in things for patch in shown.get(id(thing), ()))
            found.append(Pointer(level, number, begin, tuple(seen), characters=end - begin))
            if placed and len(things) == 1:
                sides = _sides(seen, math.isqrt(len(patches)))
                carried += [Carried(number, begin, side, "second", end - begin) for side in sides]
    return tuple(found), tuple(carried)


def _sides(patches: Sequence[int], grid: int) -> Iterator[str]:
    """On which sides of a picture these of its patches are, on average; none for its middle."""
    if patches:
        middle = np.mean([divmod(patch, grid) for patch in patches], axis=0) - (grid - 1) / 2
        for off, before, behind in zip(middle, ("top", "left"), ("bottom", "right"), strict=True):
            if abs(off) > grid / 12:
                yield before if off < 0 else behind


def _choosing(words: str, asked: list[list[Thing]], scene: Scene) -> Iterator[_Look]:
    """Where the letter of an option with these words looks: at what is chosen, or what is asked about."""
    chosen = [things for *_, things in named(words, scene) if things]
    if chosen and _PLACE.search(words):
        yield from _both(0, 1, asked[0], chosen[0])
    else:
        yield _Look("first", 0, 1, next((things for things in chosen + asked if things), []))


def _saying(
    text: str, told: list[tuple[int, list[Thing]]], asked: list[list[Thing]], scene: Scene
) -> Iterator[_Look]:
    """Where the words of an answer look that names things up to certain ends, or none."""
    place = _PLACE.search(text)
    if told:
        done = 0
        for end, things in told:  # the words up to a name look at what it is a name of
            yield _Look("third", done, end, things)
            yield _Look("first", end, end + 1, things, placed=True)
            done = end
        if len(asked) == 1:
            yield _Look("first", 0, told[0][0], asked[0])
        if len(told) == 2 and place:
            yield from _both(*place.span(), told[0][1], told[1][1])
    elif len(asked) == 2:
        yield from _both(0, len(text), *asked)
    elif len(asked) == 1 and place:
        others = [thing for thing in scene.things if not any(thing is one for one in asked[0])]
        yield from _both(0, len(text), asked[0], others)
    elif len(asked) == 1:
        yield _Look("first", 0, len(text), asked[0])


def _both(begin: int, end: int, one: list[Thing], other: list[Thing]) -> Iterator[_Look]:
    """What tells where one thing is, seen from another, looks at both."""
    yield _Look("first", begin, end, one, placed=True)
    yield _Look("second", begin, end, other)
