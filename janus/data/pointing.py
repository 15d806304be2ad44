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
    options: dict[str, tuple[int, int]] = {}  # where the option of each letter ends
    ends: dict[str, tuple[int, int]] = {}  # where each option's words end
    for number, message in enumerate(messages):
        text: str = message["content"]
        if message["role"] == "assistant":
            if text in options:
                found.append(Pointer("second", number, 0, words=(options[text],)))
            elif patches:
                found += [
                    Pointer("second", number, begin, patches=_patches(things, patches))
                    for begin, _, things in _named(text, scene)
                    if things
                ]
            continue
        listed = list(_OPTION.finditer(text))
        if listed:
            options = {one[1]: (number, one.end()) for one in listed}
            ends = {one[2]: (number, one.end()) for one in listed}
            carried += [Carried(number, one.end(), one[1]) for one in listed]
        if patches:
            found += [
                Pointer("first", number, end, patches=_patches(things, patches))
                for _, end, things in _named(text, scene)
            ]
        else:
            asked = text.rsplit("\n", 1)[-1].removesuffix("?")
            if asked in ends:
                found.append(Pointer("first", number, len(text.removesuffix("?")), words=(ends[asked],)))
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
