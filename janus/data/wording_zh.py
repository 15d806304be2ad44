"""Chinese: measure words, descriptions of scenes, questions with their answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from janus.data.facts import OPPOSITE, Facts, Group, Pair, pick, weighted
from janus.data.paint import things_table
from janus.data.scenes import COLOURS, Relation, Scene
from janus.data.wording_en import LETTERS

NUMBERS = ("零", "一", "两", "三", "四", "五", "六")
_MEASURES = {  # what is not here takes 个
    "只": ("bird", "cat", "dog", "sheep", "bear", "giraffe", "teddy bear", "kite", "baseball glove"),
    "头": ("cow", "elephant"),
    "匹": ("horse", "zebra"),
    "辆": ("bicycle", "car", "motorcycle", "bus", "truck"),
    "列": ("train",),
    "架": ("airplane",),
    "艘": ("boat",),
    "把": ("umbrella", "tennis racket", "fork", "knife", "spoon", "chair", "scissors", "toothbrush"),
    "张": ("bench", "bed", "couch", "dining table"),
    "台": ("tv", "laptop", "microwave", "oven", "toaster", "refrigerator"),
    "根": ("banana", "carrot", "baseball bat"),
    "块": ("skateboard", "surfboard", "snowboard", "pizza", "cake"),
    "副": ("skis",),
    "条": ("tie",),
    "棵": ("broccoli",),
    "盆": ("potted plant",),
    "本": ("book",),
    "部": ("cell phone",),
}
_MEASURE = {name: measure for measure, names in _MEASURES.items() for name in names}
_SIDES: dict[Relation, str] = {"left of": "左边", "right of": "右边", "above": "上面", "below": "下面"}
_DRAW = {"{}": 0.35, "画{}": 0.25, "请画{}。": 0.1, "一张图片：{}": 0.15, "{}的照片": 0.15}
_BY_LETTER = {"\n请直接回答选项字母。": 0.6, "": 0.4}


def name_of(name: str) -> str:
    """The Chinese name of a class."""
    return str(things_table()["classes"][name]["zh"])


def counted(count: int, name: str) -> str:
    """A number with the measure word of a class, such as 三只."""
    return NUMBERS[count] + _MEASURE.get(name, "个")


def phrase(group: Group) -> str:
    """Such as 一只红色的猫."""
    colour = f"{colour_of(group.colour)}的" if group.colour else ""
    return counted(group.count, group.name) + colour + name_of(group.name)


def listed(parts: Sequence[str]) -> str:
    return "和".join([*(["、".join(parts[:-1])] if parts[1:] else []), parts[-1]])


def describe(facts: Facts) -> str:
    """The one description with colours, numbers and, of two things, their relation."""
    if facts.together is not None:
        return _related(facts, facts.together)
    return listed([phrase(group) for group in facts.groups])


def caption(scene: Scene, facts: Facts, rng: np.random.Generator) -> str:
    """One of several wordings to draw the scene from."""
    if facts.together is not None and (scene.kind == "position" or rng.random() < 0.4):
        name, between, other = facts.together
        swapped = (other, OPPOSITE[between], name)
        text = _related(facts, swapped if rng.random() < 0.5 else facts.together)
    else:
        text = listed([phrase(group) for group in facts.in_order])
    return weighted(_DRAW, rng).format(text)


def ask(kind: str, facts: Facts, rng: np.random.Generator) -> tuple[str, str]:
    """A question of this kind (see `janus.data.wording.Answer`) and its answer."""
    if kind == "choice":
        return _choice(facts, rng)
    if kind == "yes-no":
        return _yes_no(facts, rng)
    if kind == "count":
        if rng.random() < 0.2:
            return "图片里一共有几个东西？", NUMBERS[facts.number] + "个"
        name = pick(list(facts.counts), rng)
        return f"有几{_MEASURE.get(name, '个')}{name_of(name)}？", counted(facts.counts[name], name)
    if kind == "colour":
        name, colour = pick(list(facts.uniform.items()), rng)
        return f"{name_of(name)}是什么颜色？", colour_of(colour)
    if kind == "where":
        name, between, other = pick(facts.pairs, rng)
        alone = facts.together is not None and rng.random() < 0.5
        question = f"{name_of(name)}在哪里？" if alone else f"{name_of(name)}在{name_of(other)}的哪边？"
        return question, _SIDES[between]
    if kind == "caption":
        return "描述这张图片。", describe(facts)
    asked = ("图片里有什么？", "你看到了什么？", *(["这是什么？"] if facts.number == 1 else []))
    return pick(asked, rng), listed([phrase(Group(name, None, n)) for name, n in facts.counts.items()])


def _related(facts: Facts, pair: Pair) -> str:
    phrases = {group.name: phrase(group) for group in facts.groups}
    return f"{phrases[pair[0]]}在{phrases[pair[2]]}的{_SIDES[pair[1]]}"


def colour_of(colour: str) -> str:
    return str(things_table()["colours"][colour]["zh"])


def _yes_no(facts: Facts, rng: np.random.Generator) -> tuple[str, str]:
    true = bool(rng.random() < 0.5)
    forms = ["there", "number", *(["colour"] if facts.uniform else []), *(["where"] if facts.pairs else [])]
    form = pick(forms, rng)
    if form == "there":
        name = pick(list(facts.counts), rng) if true else facts.absent(rng)
        return f"图片里有{name_of(name)}吗？", "有" if true else "没有"
    if form == "number":
        name = pick(list(facts.counts), rng)
        count = facts.counts[name] if true else facts.other_count(name, rng)
        return f"图片里正好有{counted(count, name)}{name_of(name)}吗？", "是" if true else "不是"
    if form == "colour":
        name, colour = pick(list(facts.uniform.items()), rng)
        colour = colour if true else facts.other_colour(name, rng)
        return f"{name_of(name)}是{colour_of(colour)}的吗？", "是" if true else "不是"
    name, between, other = pick(facts.pairs, rng)
    side = _SIDES[between if true else OPPOSITE[between]]
    return f"{name_of(name)}在{name_of(other)}的{side}吗？", "在" if true else "不在"


def _choice(facts: Facts, rng: np.random.Generator) -> tuple[str, str]:
    if facts.uniform and rng.random() < 0.5:
        question, right = ask("colour", facts, rng)
        others = [colour_of(colour) for colour in COLOURS if colour_of(colour) != right]
        wrong = [others[i] for i in rng.permutation(len(others))[:3]]
    else:
        question, right, wrong = "图片里有哪一个？", name_of(pick(list(facts.counts), rng)), []
        while len(wrong) < 3:
            other = name_of(facts.absent(rng))
            wrong += [other] if other not in wrong else []
    options = [right, *wrong]
    order = rng.permutation(len(options))
    lines = [f"{letter}. {options[i]}" for letter, i in zip(LETTERS, order, strict=True)]
    return "\n".join([question, *lines]) + weighted(_BY_LETTER, rng), LETTERS[int(np.argmin(order))]
