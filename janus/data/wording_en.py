"""English: words, descriptions of scenes, questions with their answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from janus.data.facts import OPPOSITE, Facts, Group, pick, weighted
from janus.data.scenes import COLOURS, RELATIONS, Relation, Scene

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
_PLURALS = {
    "person": "people",
    "sheep": "sheep",
    "skis": "skis",
    "scissors": "scissors",
    "knife": "knives",
    "computer mouse": "computer mice",
}
_PLACES: dict[Relation, str] = {
    "left of": "on the left",
    "right of": "on the right",
    "above": "at the top",
    "below": "at the bottom",
}
_DIRECTIONS: dict[Relation, str] = {
    "left of": "to the left",
    "right of": "to the right",
    "above": "above",
    "below": "below",
}
_BESIDE: dict[Relation, tuple[str, ...]] = {
    "left of": ("to the left of", "on the left of", "on the left side of"),
    "right of": ("to the right of", "on the right of", "on the right side of"),
    "above": ("above", "over"),
    "below": ("below", "under", "beneath"),
}
_WITH: dict[Relation, str] = {
    "left of": "to its left",
    "right of": "to its right",
    "above": "above it",
    "below": "below it",
}
_DRAW = {
    "a photo of {}": 0.2,
    "{}": 0.2,
    "a picture of {}": 0.1,
    "an image of {}": 0.06,
    "A photo of {}.": 0.06,
    "a drawing of {}": 0.04,
    "draw {}": 0.08,
    "Draw {}.": 0.06,
    "please draw {}": 0.04,
    "Please draw {}.": 0.03,
    "Can you draw {}?": 0.03,
    "generate an image of {}": 0.04,
    "show me {}": 0.03,
    "I would like a picture of {}.": 0.03,
}
_DESCRIBE = ("Describe the picture.", "Describe this image.", "What does the picture show?", "Caption this.")
LETTERS = "ABCD"
_BY_LETTER = {
    "\nAnswer with the option's letter from the given choices directly.": 0.5,
    "\nAnswer with the letter.": 0.2,
    "": 0.3,
}
_SHORTLY = {
    "": 0.75,
    "\nAnswer the question using a single word or phrase.": 0.15,
    " Please answer yes or no.": 0.1,
}


def article(phrase: str) -> str:
    """With "a" or "an" before it; like GenEval also "a scissors" and "a skis"."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def plural(name: str) -> str:
    """Of a class, in good English: "buses", "knives", "people", "sheep"."""
    if name in _PLURALS:
        return _PLURALS[name]
    return name + ("es" if name.endswith(("s", "ch", "sh", "x")) else "s")


def geneval_plural(name: str) -> str:
    """As GenEval's prompts have it: "buses", but also "knifes", "persons", "sheeps" and "benchs"."""
    return name + ("es" if name.endswith("s") else "s")


def phrase(group: Group) -> str:
    """ "a red cat", "three cats"."""
    colour = f"{group.colour} " if group.colour else ""
    if group.count == 1:
        return article(colour + group.name)
    return f"{NUMBERS[group.count]} {colour}{plural(group.name)}"


def listed(parts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([*([", ".join(parts[:-1])] if parts[1:] else []), parts[-1]])


def describe(facts: Facts) -> str:
    """The one description with colours, numbers and, of two things, their relation."""
    if facts.together is not None:
        one, between, other = facts.together
        return f"{_one(facts, one)} {between} {_one(facts, other)}"
    return listed([phrase(group) for group in facts.groups])


def _one(facts: Facts, name: str) -> str:
    """The only thing of its class, with its colour."""
    return phrase(next(group for group in facts.groups if group.name == name))


def caption(scene: Scene, facts: Facts, rng: np.random.Generator) -> str:
    """One of many wordings to draw the scene from."""
    if facts.together is not None and (scene.kind == "position" or rng.random() < 0.4):
        text = _related(facts, rng)
    else:
        text = listed([_reworded(group, rng) for group in facts.in_order])
    return weighted(_DRAW, rng).format(text)


def _related(facts: Facts, rng: np.random.Generator) -> str:
    assert facts.together is not None
    name, between, other_name = facts.together
    one, other = _one(facts, name), _one(facts, other_name)
    if rng.random() < 0.5:
        one, between, other = other, OPPOSITE[between], one
    form = rng.random()
    if form < 0.55:
        return f"{one} {between} {other}"
    if form < 0.75:
        return f"{one} {pick(_BESIDE[between], rng)} {other}"
    if form < 0.88:
        return f"{one} {_PLACES[between]} and {other} {_PLACES[OPPOSITE[between]]}"
    return f"{other} with {one} {_WITH[between]}"


def _reworded(group: Group, rng: np.random.Generator) -> str:
    form = rng.random()
    if group.count > 1 and form < 0.15:
        colour = f"{group.colour} " if group.colour else ""
        return f"{group.count} {colour}{plural(group.name)}"
    if group.count == 1 and group.colour and form < 0.1:
        return f"{article(group.name)} that is {group.colour}"
    return phrase(group)


def ask(kind: str, facts: Facts, rng: np.random.Generator) -> tuple[str, str]:
    """A question of this kind (see `janus.data.wording.Answer`) and its answer."""
    asking = {"count": _count, "colour": _colour, "where": _where, "yes-no": _yes_no, "choice": _choice}
    if kind in asking:
        return asking[kind](facts, rng)
    if kind == "caption":
        return pick(_DESCRIBE, rng), describe(facts)
    if facts.told_by_colour and rng.random() < 0.3:
        colour, name = pick(facts.told_by_colour, rng)
        return pick((f"What is {colour}?", f"Which thing is {colour}?"), rng), article(name)
    asked = ["What is in the picture?", "What do you see?", "What is shown?", "What is in this image?"]
    if facts.number == 1:
        asked += ["What is this?", "What is it?"]
    names = [phrase(Group(name, None, count)) for name, count in facts.counts.items()]
    return pick(asked, rng), listed(names)


def _count(facts: Facts, rng: np.random.Generator) -> tuple[str, str]:
    form = rng.random()
    if form < 0.2:
        things = ("How many things are there?", "How many objects are in the picture?")
        return pick(things, rng), NUMBERS[facts.number]
    name = pick(list(facts.counts), rng) if rng.random() < 0.8 else facts.absent(rng)
    many, count = plural(name), facts.counts.get(name, 0)
    if form < 0.45 and facts.shades:
        name = pick(list(facts.shades), rng)
        own = pick(list(facts.shades[name]), rng)
        colour = own if rng.random() < 0.7 else facts.other_colour(name, rng)
        many, count = f"{colour} {plural(name)}", facts.shades[name][colour]
    asked = (
        f"How many {many} are there?",
        f"How many {many} are in the picture?",
        f"How many {many} do you see?",
    )
    return pick(asked, rng), NUMBERS[count]


def _colour(facts: Facts, rng: np.random.Generator) -> tuple[str, str]:
    name, colour = pick(list(facts.uniform.items()), rng)
    word = pick(("color", "colour"), rng)
    if facts.counts[name] > 1:
        return f"What {word} are the {plural(name)}?", colour
    the = "it" if facts.number == 1 and rng.random() < 0.3 else f"the {name}"
    asked = (f"What {word} is {the}?", f"Which {word} is {the}?", f"What is the {word} of {the}?")
    return pick(asked, rng), colour


def _where(facts: Facts, rng: np.random.Generator) -> tuple[str, str]:
    name, between, other = pick(facts.pairs, rng)
    form = int(rng.integers(4)) if facts.together is not None else 3
    if form == 0:
        return f"Where is the {name}?", _PLACES[between]
    if form == 1:
        return f"What is {_PLACES[between]}?", article(name)
    if form == 2:
        return f"What is {between} the {other}?", article(name)
    seen = (f"Where is the {name}, seen from the {other}?", f"Where is the {name} relative to the {other}?")
    return pick(seen, rng), _DIRECTIONS[between]


def _yes_no(facts: Facts, rng: np.random.Generator) -> tuple[str, str]:
    forms = [_is_there, _is_there]
    forms += [_are_exactly] if max(facts.counts.values()) > 1 or rng.random() < 0.3 else []
    forms += [_has_colour, _has_colour] if facts.shades else []
    forms += [_is_where, _is_where] if facts.pairs else []
    true = bool(rng.random() < 0.5)
    question = pick(forms, rng)(facts, true, rng) + weighted(_SHORTLY, rng)
    return question, "yes" if true else "no"


def _is_there(facts: Facts, true: bool, rng: np.random.Generator) -> str:
    present = pick(list(facts.counts), rng)  # decides the wording, which so gives no answer away
    name = present if true else facts.absent(rng)
    a = article(name)
    asked = [f"Are there any {plural(name)} in the picture?"]
    if facts.counts[present] == 1:
        asked += [f"Is there {a} in the image?", f"Is there {a}?", f"Is there {a} in the picture?"]
        asked += [f"Is this {a}?" if facts.number == 1 else f"Do you see {a}?"]
    return pick(asked, rng)


def _are_exactly(facts: Facts, true: bool, rng: np.random.Generator) -> str:
    name = pick(list(facts.counts), rng)
    count = facts.counts[name] if true else facts.other_count(name, rng)
    if count == 1:
        return f"Is there exactly one {name}?"
    return f"Are there exactly {NUMBERS[count]} {plural(name)}?"


def _has_colour(facts: Facts, true: bool, rng: np.random.Generator) -> str:
    name = pick(list(facts.shades), rng)
    colour = pick(list(facts.shades[name]), rng) if true else facts.other_colour(name, rng)
    asked = [f"Are there any {colour} {plural(name)}?"]
    if facts.counts[name] == 1:
        asked += [f"Is the {name} {colour}?", f"Is there {article(colour)} {name}?"]
    elif name in facts.uniform:
        asked += [f"Are the {plural(name)} {colour}?"]
    return pick(asked, rng)


def _is_where(facts: Facts, true: bool, rng: np.random.Generator) -> str:
    name, between, other = pick(facts.pairs, rng)
    return f"Is the {name} {between if true else OPPOSITE[between]} the {other}?"


def letters(facts: Facts, rng: np.random.Generator, turns: int) -> list[tuple[str, str]]:
    """A choice that needs no picture: its options' letters are asked for by their words."""
    asked, options, _ = _options(facts, rng)
    said = [(f"{options[letter]}?", letter) for letter in (pick(LETTERS, rng) for _ in range(turns))]
    (first, answer), *rest = said
    return [(f"{asked}\n{first}", answer), *rest]


def _choice(facts: Facts, rng: np.random.Generator) -> tuple[str, str]:
    asked, _, right = _options(facts, rng)
    return asked + weighted(_BY_LETTER, rng), right


def _options(facts: Facts, rng: np.random.Generator) -> tuple[str, dict[str, str], str]:
    """A question with its options below, the options by letter, and the letter of the right one."""
    forms = [_choose_name, _choose_count]
    forms += [_choose_colour] if facts.uniform else []
    forms += [_choose_place] if facts.pairs else []
    question, right, wrong = pick(forms, rng)(facts, rng)
    options = [right, *(wrong[i] for i in rng.permutation(len(wrong))[: len(LETTERS) - 1])]
    order = rng.permutation(len(options))
    by_letter = {letter: options[i] for letter, i in zip(LETTERS, order, strict=True)}
    lines = [f"{letter}. {option}" for letter, option in by_letter.items()]
    return "\n".join([question, *lines]), by_letter, LETTERS[int(np.argmin(order))]


def _choose_name(facts: Facts, rng: np.random.Generator) -> tuple[str, str, list[str]]:
    wrong: dict[str, None] = {}
    while len(wrong) < 3:
        wrong[facts.absent(rng)] = None
    asked = ("Which of these is in the picture?", "What is in the picture?", "Which of these do you see?")
    return pick(asked, rng), pick(list(facts.counts), rng), list(wrong)


def _choose_count(facts: Facts, rng: np.random.Generator) -> tuple[str, str, list[str]]:
    question, right = _count(facts, rng)
    return question, right, [number for number in NUMBERS if number != right]


def _choose_colour(facts: Facts, rng: np.random.Generator) -> tuple[str, str, list[str]]:
    question, right = _colour(facts, rng)
    return question, right, [colour for colour in COLOURS if colour != right]


def _choose_place(facts: Facts, rng: np.random.Generator) -> tuple[str, str, list[str]]:
    name, between, other = pick(facts.pairs, rng)
    wrong = [f"{r} the {other}" for r in RELATIONS if r != between]
    return f"Where is the {name}?", f"{between} the {other}", wrong
