"""Where the words of a conversation about a scene should look: at the patches of what they name, or at the
option that an answer chooses.

`janus.train.looking` makes a loss of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache

from janus.data import wording_zh
from janus.data.records import Carried, Pointer
from janus.data.scenes import COLOURS, NAMES, Scene, Thing
from janus.data.wording_en import LETTERS, geneval_plural, plural
from janus.tokenizers.chat import Message

_OPTION = re.compile(rf"^([{LETTERS}])\. (.+)$", re.MULTILINE)


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
    for number, message in enumerate(messages):
        text: str = message["content"]
        named = list(_named(text, scene)) if patches else []
        if message["role"] == "user":
            if listed := list(_OPTION.finditer(text)):
                options = {one[1]: (number, one.end(), one[2]) for one in listed}
                carried += [Carried(number, one.end(), one[1]) for one in listed]
            found += [
                Pointer("first", number, end, patches=_patches(things, patches)) for _, end, things in named
            ]
            asked = text.rsplit("\n", 1)[-1].removesuffix("?")
            if not patches:  # the words asked for are those of an option
                found += [
                    Pointer("first", number, len(text.removesuffix("?")), words=((where, end),))
                    for where, end, words in options.values()
                    if words == asked
                ]
        elif text in options:
            where, end, words = options[text]
            question: str = messages[number - 1]["content"]
            if patches:  # what is chosen, or else what the question is about
                chosen = [*_named(words, scene), *_named(question.split("\n")[0], scene)]
                things = next((things for *_, things in chosen if things), [])
                found.append(Pointer("first", number, 0, patches=_patches(things, patches)))
            else:
                found.append(
                    Pointer("first", number, 0, words=((number - 1, len(question.removesuffix("?"))),))
                )
            found.append(Pointer("second", number, 0, words=((where, end),)))
        elif told := [(begin, things) for begin, _, things in named if things]:
            found += [
                Pointer("second", number, begin, patches=_patches(things, patches)) for begin, things in told
            ]
        elif patches:
            about = [things for *_, things in _named(messages[number - 1]["content"], scene)]
            if len(about) == 1:
                found.append(Pointer("first", number, 0, patches=_patches(about[0], patches)))
    return tuple(found), tuple(carried)


def _patches(things: Sequence[Thing], patches: Sequence[Thing | None]) -> tuple[int, ...]:
    return tuple(number for number, thing in enumerate(patches) if any(thing is one for one in things))


def _named(text: str, scene: Scene) -> Iterator[tuple[int, int, list[Thing]]]:
    """From where to where a text names things, and which of the scene's they are, none for absent ones.

    A colour that no such thing has tells none of them apart.
    """
    pattern, names, shades = _forms()
    for match in pattern.finditer(text):
        shade, name = match["shade"] or match["zh_shade"], names[(match["name"] or match["zh_name"]).lower()]
        things = [thing for thing in scene.things if thing.name == name]
        if not things and name in COLOURS:
            continue  # an orange, or the colour
        if shade:
            things = [thing for thing in things if thing.colour == shades[shade.lower()]] or things
        yield match.start(), match.end(), things


@cache
def _forms() -> tuple[re.Pattern[str], dict[str, str], dict[str, str]]:
    """What finds a name with the colour before it, the classes by all forms of their names, the colours."""
    english = {form(name): name for name in NAMES for form in (str, plural, geneval_plural)}
    chinese = {wording_zh.name_of(name): name for name in NAMES}
    shades = {colour: colour for colour in COLOURS}
    chinese_shades = {wording_zh.colour_of(colour): colour for colour in COLOURS}

    def any_of(forms: dict[str, str]) -> str:
        return "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))

    pattern = re.compile(
        rf"\b(?:(?P<shade>{any_of(shades)}) )?(?P<name>{any_of(english)})\b"
        rf"|(?:(?P<zh_shade>{any_of(chinese_shades)})的)?(?P<zh_name>{any_of(chinese)})",
        re.IGNORECASE,
    )
    return pattern, english | chinese, shades | chinese_shades
