"""Where the words of a conversation about a scene should look: at the patches of what they name, or at the
option that an answer chooses.

`janus.train.looking` makes a loss of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from janus.data.records import Carried, Level, Pointer
from janus.data.scenes import Scene, Thing
from janus.data.wording import named
from janus.data.wording_en import LETTERS
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
    asked: list[tuple[int, int, list[Thing]]] = []  # what the last question names

    shown: dict[int, list[int]] = {}  # the patches of each thing, by its identity: two may be equal
    for patch, thing in enumerate(patches):
        shown.setdefault(id(thing), []).append(patch)

    def see(level: Level, number: int, at: int, things: Sequence[Thing]) -> None:
        seen = sorted(patch for thing in things for patch in shown.get(id(thing), ()))
        found.append(Pointer(level, number, at, patches=tuple(seen)))

    for number, message in enumerate(messages):
        text: str = message["content"]
        names = list(named(text, scene)) if patches else []
        if message["role"] == "user":
            if listed := list(_OPTION.finditer(text)):
                options = {one[1]: (number, one.end(), one[2]) for one in listed}
                carried += [Carried(number, one.end(), one[1]) for one in listed]
            for _, end, things in names:
                see("first", number, end, things)
            asked, question = names, text.removesuffix("?")
            if not patches:  # the last line is the words of an option
                found += [
                    Pointer("first", number, len(question), words=((where, end),))
                    for where, end, words in options.values()
                    if words == question.rsplit("\n", 1)[-1]
                ]
        elif text in options:
            where, end, words = options[text]
            if patches:  # what is chosen, or else what the question is about
                about = [*named(words, scene), *asked]
                see("first", number, 0, next((things for *_, things in about if things), []))
            else:
                found.append(Pointer("first", number, 0, words=((number - 1, len(question)),)))
            found.append(Pointer("second", number, 0, words=((where, end),)))
        elif told := [(begin, things) for begin, _, things in names if things]:
            for begin, things in told:
                see("second", number, begin, things)
        elif len(asked) == 1:
            see("first", number, 0, asked[0][2])
    return tuple(found), tuple(carried)
