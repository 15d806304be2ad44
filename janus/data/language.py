"""What can be said about a scene: captions to draw from, questions with their answers.

Captions use GenEval's wording and several others, mainly English, some Chinese.  Everything is made
from the scene's description, so it is true; a colour is only mentioned where the scene names one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from janus.data.world import Relation, Scene, Thing, world_table

CHINESE = 0.12  # share of captions and questions
NUMBERS = ("zero", "one", "two")
CHINESE_NUMBERS = ("零", "一", "两")
_OPPOSITE: dict[Relation, Relation] = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
}
_SIDE: dict[Relation, str] = {"left of": "left", "right of": "right", "above": "top", "below": "bottom"}
_CHINESE_SIDE: dict[Relation, str] = {
    "left of": "左边",
    "right of": "右边",
    "above": "上面",
    "below": "下面",
}
_PHRASES: dict[Relation, tuple[str, ...]] = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above",),
    "below": ("below", "under"),
}
_DRAW = (
    "a photo of {}",
    "{}",
    "a picture of {}",
    "draw {}",
    "Draw {}.",
    "an image of {}",
    "generate an image of {}",
    "please draw {}",
    "A photo of {}.",
)
_DRAW_WEIGHTS = (0.4, 0.14, 0.1, 0.06, 0.06, 0.06, 0.06, 0.06, 0.06)


@dataclass(frozen=True)
class Answer:
    """A question about a picture, its answer, and what it asks for."""

    kind: str  # what | colour | count | where | yes-no | caption
    question: str
    answer: str


def article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def plural(name: str) -> str:
    if name == "bus":
        return "buses"
    return name + ("es" if name.endswith("x") else "s")


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A prompt to draw the scene from."""
    if rng.random() < CHINESE:
        return str(rng.choice(["", "画", "一张图片："])) + describe_chinese(scene, rng)
    text = describe(scene, rng)
    return str(rng.choice(_DRAW, p=_DRAW_WEIGHTS)).format(text)


def describe(scene: Scene, rng: np.random.Generator | None = None) -> str:
    """ "a red apple", "two cats", "a cat left of a dog"; without `rng` the most precise wording."""
    first = scene.things[0]
    if len(scene.things) == 1:
        return article(_named(first))
    second, relation = scene.things[1], scene.relation
    assert relation is not None
    if _alike(scene):
        return "two " + " ".join([first.colour or "", plural(first.name)]).strip()
    one, other = article(_named(first)), article(_named(second))
    if rng is None:
        return f"{one} {relation} {other}"
    if rng.random() < 0.5:
        return f"{one} and {other}" if rng.random() < 0.5 else f"{other} and {one}"
    if rng.random() < 0.5:
        one, other, relation = other, one, _OPPOSITE[relation]
    phrases = _PHRASES[relation]
    phrase = phrases[0] if rng.random() < 0.6 else str(rng.choice(phrases))
    return f"{one} {phrase} {other}"


def describe_chinese(scene: Scene, rng: np.random.Generator | None = None) -> str:
    """ "一个红色的苹果", "两个猫", "苹果在杯子的左边"."""
    first = scene.things[0]
    if len(scene.things) == 1:
        return "一个" + _chinese(first)
    second, relation = scene.things[1], scene.relation
    assert relation is not None
    if _alike(scene):
        return "两个" + _chinese(first)
    if rng is not None and rng.random() < 0.5:
        return f"一个{_chinese(first)}和一个{_chinese(second)}"
    return f"一个{_chinese(first)}在一个{_chinese(second)}的{_CHINESE_SIDE[relation]}"


def question(scene: Scene, rng: np.random.Generator) -> Answer:
    """A question that this scene answers without doubt."""
    kinds = ["what", "count", "yes-no", "yes-no", "caption"]
    kinds += ["colour", "colour"] if scene.things[0].colour else []
    if not _alike(scene) and len(scene.things) == 2:
        kinds += ["where", "where"]
    kind = str(rng.choice(kinds))
    ask = _ask_chinese if rng.random() < CHINESE else _ask
    return Answer(kind, *ask(kind, scene, rng))


def _ask(kind: str, scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    thing = scene.things[rng.integers(len(scene.things))]
    single = len(scene.things) == 1
    name = thing.name
    asked: tuple[str, ...]
    wording: tuple[str, ...]
    if kind == "what":
        if single:
            asked = (
                "What is this?",
                "What is it?",
                "What is in the picture?",
                "What do you see?",
                "What is shown?",
            )
            return str(rng.choice(asked)), article(name)
        asked = ("What is in the picture?", "What do you see?", "What are these?", "What is shown?")
        names = [t.name for t in _reading_order(scene)]
        if _alike(scene):
            return str(rng.choice(asked)), "two " + plural(name)
        return str(rng.choice(asked)), f"{article(names[0])} and {article(names[1])}"
    if kind == "colour":
        colour = thing.colour or ""
        asked_here = single and rng.random() < 0.3
        the = "it" if asked_here else f"the {name}"
        word = str(rng.choice(["color", "colour"]))
        if _alike(scene):
            return f"What {word} are the {plural(name)}?", colour
        wording = (f"What {word} is {the}?", f"Which {word} is {the}?", f"What is the {word} of {the}?")
        return str(rng.choice(wording)), colour
    if kind == "count":
        if rng.random() < 0.3:
            wording = ("How many things are there?", "How many objects are in the picture?")
            return str(rng.choice(wording)), NUMBERS[len(scene.things)]
        name = name if rng.random() < 0.8 else _absent(scene, rng)
        many = plural(name)
        wording = (
            f"How many {many} are there?",
            f"How many {many} are in the picture?",
            f"How many {many} do you see?",
        )
        return str(rng.choice(wording)), NUMBERS[sum(t.name == name for t in scene.things)]
    if kind == "where":
        return _ask_where(scene, rng)
    if kind == "yes-no":
        return _ask_yes_no(scene, rng)
    wording = (
        "Describe the picture.",
        "Describe this image.",
        "What does the picture show?",
        "Caption this picture.",
    )
    return str(rng.choice(wording)), describe(scene)


def _ask_where(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    index = int(rng.integers(2))
    thing, other = scene.things[index], scene.things[1 - index]
    relation = scene.relation
    assert relation is not None
    relation = relation if index == 0 else _OPPOSITE[relation]
    where = f"{'on' if relation in ('left of', 'right of') else 'at'} the {_SIDE[relation]}"
    form = rng.integers(4)
    if form == 0:
        return f"Where is the {thing.name}?", where
    if form == 1:
        return f"What is {where}?", article(thing.name)
    if form == 2:
        return f"What is {relation} the {other.name}?", article(thing.name)
    claimed = relation if rng.random() < 0.5 else _OPPOSITE[relation]
    return f"Is the {thing.name} {claimed} the {other.name}?", "yes" if claimed == relation else "no"


def _ask_yes_no(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    thing = scene.things[rng.integers(len(scene.things))]
    truth = bool(rng.random() < 0.5)
    answer = "yes" if truth else "no"
    if thing.colour and not _alike(scene) and rng.random() < 0.35:
        wrong = [c for c in world_table()["colours"] if c != thing.colour]
        colour = thing.colour if truth else str(rng.choice(wrong))
        return f"Is the {thing.name} {colour}?", answer
    if _alike(scene) and truth:
        return f"Are there any {plural(thing.name)} in the picture?", answer
    name = thing.name if truth else _absent(scene, rng)
    a = article(name)
    wording = (
        f"Is there {a} in the image?",
        f"Is there {a}?",
        f"Is there {a} in the picture?",
        f"Is this {a}?" if len(scene.things) == 1 else f"Do you see {a}?",
        f"Are there any {plural(name)} in the picture?",
    )
    return str(rng.choice(wording)), answer


def _ask_chinese(kind: str, scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    table = world_table()
    index = int(rng.integers(len(scene.things)))
    thing = scene.things[index]
    name = table["classes"][thing.name]["zh"]
    if kind == "what":
        names = [table["classes"][t.name]["zh"] for t in _reading_order(scene)]
        answer = ("两个" + names[0]) if _alike(scene) else "和".join(names)
        return str(rng.choice(["这是什么？", "图片里有什么？"])), answer
    if kind == "colour":
        return f"{name}是什么颜色？", table["colours"][thing.colour]["zh"]
    if kind == "count":
        count = sum(t.name == thing.name for t in scene.things)
        return f"有几个{name}？", CHINESE_NUMBERS[count] + "个"
    if kind == "where" and scene.relation is not None:
        relation = scene.relation if index == 0 else _OPPOSITE[scene.relation]
        return f"{name}在哪里？", _CHINESE_SIDE[relation]
    if kind == "yes-no":
        truth = bool(rng.random() < 0.5)
        asked = name if truth else table["classes"][_absent(scene, rng)]["zh"]
        return f"图片里有{asked}吗？", "有" if truth else "没有"
    return "描述这张图片。", describe_chinese(scene)


def _named(thing: Thing) -> str:
    return thing.name if thing.colour is None else f"{thing.colour} {thing.name}"


def _chinese(thing: Thing) -> str:
    table = world_table()
    colour = "" if thing.colour is None else table["colours"][thing.colour]["zh"] + "的"
    return colour + str(table["classes"][thing.name]["zh"])


def _alike(scene: Scene) -> bool:
    return len(scene.things) == 2 and scene.things[0].name == scene.things[1].name


def _reading_order(scene: Scene) -> list[Thing]:
    """From left to right or from top to bottom."""
    things = list(scene.things)
    return things[::-1] if scene.relation in ("right of", "below") else things


def _absent(scene: Scene, rng: np.random.Generator) -> str:
    present = {t.name for t in scene.things}
    return str(rng.choice([name for name in world_table()["classes"] if name not in present]))
