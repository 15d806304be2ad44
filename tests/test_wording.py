"""Captions, questions and answers are true of their scenes, judged from the scenes alone.

The drawings are stand-ins, so that no test needs the network.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from janus.data.paint import things_table
from janus.data.scenes import COLOURS, LOOKS, NAMES, TIDY_BACKGROUNDS, Box, Relation, Scene, SceneMaker, Thing
from janus.data.wording import (
    Answer,
    article,
    caption,
    describe,
    geneval_plural,
    letters,
    plural,
    prompt,
    questions,
)
from janus.data.wording_zh import counted, name_of
from tests.test_scenes import stand_ins

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
RELATIONS: tuple[Relation, ...] = ("left of", "right of", "above", "below")


@pytest.fixture(scope="module")
def maker() -> SceneMaker:
    return SceneMaker(stand_ins(), 96)


@pytest.fixture(scope="module")
def scenes(maker: SceneMaker) -> list[Scene]:
    return [maker.at(look, 0, i) for look in LOOKS for i in range(250)]


def _thing(name: str, colour: str | None = None, box: Box = (0, 0, 20, 20)) -> Thing:
    return Thing(name, colour, 0, box)


def _scene(*things: Thing, kind: Any = None) -> Scene:
    return Scene(things, TIDY_BACKGROUNDS[0], kind)


# Lines of GenEval's evaluation_metadata.jsonl (MIT licence, Dhruba Ghosh): task, clauses, prompt.
OFFICIAL: list[tuple[str, list[dict[str, Any]], str]] = [
    ("single_object", [{"class": "bench", "count": 1}], "a photo of a bench"),
    ("single_object", [{"class": "elephant", "count": 1}], "a photo of an elephant"),
    ("single_object", [{"class": "scissors", "count": 1}], "a photo of a scissors"),
    (
        "two_object",
        [{"class": "person", "count": 1}, {"class": "apple", "count": 1}],
        "a photo of a person and an apple",
    ),
    (
        "two_object",
        [{"class": "bench", "count": 1}, {"class": "sports ball", "count": 1}],
        "a photo of a bench and a sports ball",
    ),
    ("counting", [{"class": "clock", "count": 2}], "a photo of two clocks"),
    ("counting", [{"class": "bus", "count": 4}], "a photo of four buses"),
    ("counting", [{"class": "sheep", "count": 2}], "a photo of two sheeps"),
    ("counting", [{"class": "person", "count": 3}], "a photo of three persons"),
    ("colors", [{"class": "orange", "count": 1, "color": "orange"}], "a photo of an orange orange"),
    ("colors", [{"class": "fire hydrant", "count": 1, "color": "blue"}], "a photo of a blue fire hydrant"),
    (
        "position",
        [{"class": "teddy bear", "count": 1}, {"class": "dog", "count": 1, "position": ["right of", 0]}],
        "a photo of a dog right of a teddy bear",
    ),
    (
        "position",
        [{"class": "elephant", "count": 1}, {"class": "hair drier", "count": 1, "position": ["below", 0]}],
        "a photo of a hair drier below an elephant",
    ),
    (
        "position",
        [{"class": "kite", "count": 1}, {"class": "toilet", "count": 1, "position": ["left of", 0]}],
        "a photo of a toilet left of a kite",
    ),
    (
        "position",
        [{"class": "chair", "count": 1}, {"class": "stop sign", "count": 1, "position": ["above", 0]}],
        "a photo of a stop sign above a chair",
    ),
    (
        "color_attr",
        [
            {"class": "boat", "count": 1, "color": "white"},
            {"class": "hot dog", "count": 1, "color": "orange"},
        ],
        "a photo of a white boat and an orange hot dog",
    ),
]


def of_metadata(tag: str, include: list[dict[str, Any]]) -> Scene:
    """A scene that a line of metadata asks for.  In position prompts the second clause is named first."""
    around = {"left of": (0, 40), "right of": (80, 40), "above": (40, 0), "below": (40, 80)}
    things = []
    for clause in include:
        x, y = around[clause["position"][0]] if "position" in clause else (40, 40)
        thing = _thing(clause["class"], clause.get("color"), (x, y, x + 16, y + 16))
        things += [thing] * clause["count"]
    return _scene(*(things[::-1] if tag == "position" else things), kind=tag)


@pytest.mark.parametrize(("tag", "include", "expected"), OFFICIAL)
def test_prompts_are_those_of_geneval(tag: str, include: list[dict[str, Any]], expected: str) -> None:
    assert prompt(of_metadata(tag, include)) == expected


def test_scenes_without_a_task_or_relation_have_no_prompt() -> None:
    with pytest.raises(ValueError, match="only tidy scenes"):
        prompt(_scene(_thing("cat")))
    with pytest.raises(ValueError, match="no relation between"):
        prompt(_scene(_thing("cat"), _thing("dog"), kind="position"))


def test_words() -> None:
    odd = {
        "bus": "buses",
        "sheep": "sheep",
        "skis": "skis",
        "scissors": "scissors",
        "knife": "knives",
        "toothbrush": "toothbrushes",
        "wine glass": "wine glasses",
        "sandwich": "sandwiches",
        "couch": "couches",
        "bench": "benches",
        "person": "people",
        "computer mouse": "computer mice",
    }
    for name in NAMES:
        assert plural(name) == odd.get(name, f"{name}s")
        with_es = name in ("bus", "wine glass", "skis", "scissors")
        assert geneval_plural(name) == name + ("es" if with_es else "s")
    with_an = {"airplane", "elephant", "umbrella", "apple", "orange", "oven"}
    assert {name for name in NAMES if article(name) == f"an {name}"} == with_an
    assert article("orange cow") == "an orange cow"


def test_descriptions() -> None:
    assert describe(_scene(_thing("apple", "red"))) == "a red apple"
    pair = _scene(_thing("dog", "red", (60, 0, 80, 20)), _thing("cat", None, (0, 0, 20, 20)))
    assert describe(pair) == "a cat left of a red dog"
    assert describe(_scene(_thing("dog"), _thing("cat"))) == "a cat and a dog"
    many = [_thing("dog"), _thing("cup", "red"), _thing("cat"), _thing("cup", "red"), _thing("cat", "blue")]
    assert describe(_scene(*many)) == "two cats, two red cups and a dog"
    assert describe(_scene(_thing("bus", "red"), _thing("bus", "blue"))) == "a blue bus and a red bus"


def _relations(a: Box, b: Box) -> set[Relation]:
    """GenEval's rule once more: the offset less a tenth of the sizes, over the length of the offset."""
    one, other = np.array(a, float).reshape(2, 2), np.array(b, float).reshape(2, 2)
    offset = one.mean(0) - other.mean(0)
    short = np.sign(offset) * np.maximum(np.abs(offset) - 0.1 * (np.ptp(one, 0) + np.ptp(other, 0)), 0)
    x, y = short / max(np.linalg.norm(offset), 1e-9)
    return {r for r, true in zip(RELATIONS, (x < -0.5, x > 0.5, y < -0.5, y > 0.5), strict=True) if true}


def _any(words: Any) -> str:
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


SINGULAR = {form: name for name in NAMES for form in (name, plural(name), geneval_plural(name))}
N, C, R = f"({_any(SINGULAR)})", f"({_any(COLOURS)})", f"({_any(RELATIONS)})"
PHRASE = re.compile(rf"\b(an?|two|three|four|five|six|[2-6]) (?:{C} )?{N}(?![a-z])(?: that is {C})?")


def _number(word: str) -> int:
    return 1 if word in ("a", "an") else int(word) if word.isdigit() else NUMBERS.index(word)


def _groups(scene: Scene, coloured: bool = True) -> Counter[tuple[str, str | None]]:
    """Things by class, and by colour where each of the class has one."""
    bare = {t.name for t in scene.things if t.colour is None or not coloured}
    return Counter((t.name, None if t.name in bare else t.colour) for t in scene.things)


def _said(text: str) -> list[tuple[int, str | None, str]]:
    found = PHRASE.findall(text)
    return [(_number(n), colour or late or None, SINGULAR[name]) for n, colour, name, late in found]


def _check_description(scene: Scene, text: str, coloured: bool = True) -> None:
    said = _said(text)
    assert Counter({(name, colour): n for n, colour, name in said}) == _groups(scene, coloured), text
    assert len(said) == len(_groups(scene, coloured)), text
    first, *rest = ([t for t in scene.things if t.name == name] for _, _, name in said)
    marks = iter("XYZUVW")
    shape = PHRASE.sub(lambda _: next(marks), text)
    if found := re.search(r"X with Y (?:to its )?(left|right|above|below)", shape):
        first, rest = rest[0], [first]
    elif found := re.search(r"(?:on|at) the (left|right|top|bottom) and Y (?:on|at) the ([a-z]+)", shape):
        assert {found[1], found[2]} in ({"left", "right"}, {"top", "bottom"}), text
    else:
        found = re.search(r"X [a-z ]*?(left|right|above|over|below|under|beneath)[a-z ]* Y", shape)
    if found is None:
        assert not re.search(r"left|right|above|below|under|top|bottom", shape), text
        return
    upper = {"above": "above", "over": "above", "top": "above", "left": "left of", "right": "right of"}
    assert len(scene.things) == 2
    assert _relations(first[0].box, rest[0][0].box) == {upper.get(found[1], "below")}, text


def test_captions_are_true_and_complete(scenes: list[Scene]) -> None:
    rng = np.random.default_rng(0)
    chinese, official, related = 0, 0, Counter[str]()
    for scene in scenes * 3:
        text = caption(scene, rng)
        if not text.isascii():
            chinese += 1
            for name, count in Counter(t.name for t in scene.things).items():
                assert name_of(name) in text
                colours = {t.colour for t in scene.things if t.name == name}
                if len(colours) == 1:
                    assert counted(count, name) in text
            continue
        _check_description(scene, text[0].lower() + text[1:])
        if scene.kind is not None:
            official += text == prompt(scene)
            related.update(r for r in RELATIONS if r in text and scene.kind in ("two_object", "position"))
    assert 0.08 < chinese / (3 * len(scenes)) < 0.16
    assert 0.35 < official / (3 * sum(scene.kind is not None for scene in scenes)) < 0.6
    assert set(related) == set(RELATIONS)


def test_position_scenes_are_also_described_otherwise(maker: SceneMaker) -> None:
    rng = np.random.default_rng(0)
    scene = maker.at("tidy", 0, 0, "position")
    texts = {caption(scene, rng) for _ in range(400)}
    first, second = (article(t.name) for t in scene.things)
    said = prompt(scene).removeprefix("a photo of ").split(first)[1].split(second)[0].strip()
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}[said]
    assert f"{first} {said} {second}" in " ".join(texts)
    assert f"{second} {opposite} {first}" in " ".join(texts)
    english = [text for text in texts if text.isascii()]
    assert len(english) > 60
    assert not [
        text for text in english if f"{first} and {second}" in text or f"{second} and {first}" in text
    ]


def test_of_two_things_without_a_relation_the_first_to_be_drawn_is_named_first(maker: SceneMaker) -> None:
    rng = np.random.default_rng(0)
    told = Counter[str]()
    for index, kind in itertools.product(range(40), ("two_object", "color_attr")):
        scene = maker.at("tidy", 0, index, kind)  # type: ignore[arg-type]
        first, second = sorted(scene.things, key=lambda t: (round(sum(t.box[1::2]) / 24), t.box[0]))
        for _ in range(6):
            text = caption(scene, rng)
            told[kind] += f"{first.words} and a" in text
            assert f"{second.words} and a" not in text
    assert min(told.values()) > 80


def _of(scene: Scene, form: str) -> list[Thing]:
    return [t for t in scene.things if t.name == SINGULAR[form]]


def _the(scene: Scene, form: str) -> Thing:
    (thing,) = _of(scene, form)  # the only one, or the question would be ambiguous
    return thing


def _painted(things: list[Thing]) -> list[Thing]:
    assert all(t.colour for t in things)
    return things


def _count(scene: Scene, question: str) -> int:
    tail = r"(?:are there|are in the picture|do you see)\?$"
    match = re.match(rf"How many (?:things|objects|(?:{C} )?{N}) {tail}", question)
    assert match, question
    colour, form = match.groups()
    if form is None:
        return len(scene.things)
    things = _of(scene, form)
    return len(things) if colour is None else sum(t.colour == colour for t in _painted(things))


def _yes(scene: Scene, question: str) -> bool:
    question = question.split("\n")[0].removesuffix(" Please answer yes or no.")
    tail = r"(?: in the (?:image|picture))?\?$"
    start = "(?:Is there|Do you see|Is this|Are there any) (?:an? )?"
    if match := re.match(rf"{start}(?:{C} )?{N}{tail}", question):
        colour, form = match.groups()
        assert not question.startswith("Is this") or len(scene.things) == 1
        things = _of(scene, form)
        return bool(things) if colour is None else any(t.colour == colour for t in _painted(things))
    if match := re.match(rf"(?:Is|Are) there exactly (\w+) {N}\?$", question):
        return len(_of(scene, match[2])) == NUMBERS.index(match[1])
    if match := re.match(rf"(?:Is|Are) the {N} {C}\?$", question):
        colours = {t.colour for t in _painted(_of(scene, match[1]))}
        assert len(colours) == 1
        return match[2] in colours
    match = re.match(rf"Is the {N} {R} the {N}\?$", question)
    assert match, question
    found = _relations(_the(scene, match[1]).box, _the(scene, match[3]).box)
    assert len(found) == 1
    return match[2] in found


def _colour(scene: Scene, question: str) -> str:
    match = re.search(rf"(?:it|the {N})\?$", question)
    assert match, question
    assert match[1] or len(scene.things) == 1
    (colour,) = {t.colour for t in scene.things if match[1] is None or t.name == SINGULAR[match[1]]}
    assert colour is not None
    return colour


def _where(scene: Scene, asked: Answer) -> None:
    sides = {"left": "left of", "right": "right of", "above": "above", "top": "above"}
    if match := re.match(rf"Where is the {N}(?:, seen from| relative to) the {N}\?$", asked.question):
        assert asked.answer in ("to the left", "to the right", "above", "below")
        said = sides.get(asked.answer.split()[-1], "below")
        assert _relations(_the(scene, match[1]).box, _the(scene, match[2]).box) == {said}
        return
    first, second = scene.things
    if match := re.match(rf"Where is the {N}\?$", asked.question):
        thing, side = _the(scene, match[1]), asked.answer
        assert side in ("on the left", "on the right", "at the top", "at the bottom")
    else:
        thing, side = _the(scene, asked.answer.split(" ", 1)[1]), asked.question
    other = second if thing == first else first
    words = re.findall(r"left|right|above|top|below|bottom", side)
    assert _relations(thing.box, other.box) == {sides.get(words[0], "below")}
    if match := re.match(rf"What is {R} the {N}\?$", asked.question):
        assert _the(scene, match[2]) == other


def _true_options(scene: Scene, question: str) -> list[str]:
    text, *lines = question.split("\n")
    options = {line[0]: line[3:] for line in lines if line[1:3] == ". "}
    assert list(options) == ["A", "B", "C", "D"]
    assert len(set(options.values())) == 4

    def true(option: str) -> bool:
        if text.startswith("How many"):
            return option == NUMBERS[_count(scene, text)]
        if "color" in text or "colour" in text:
            return option == _colour(scene, text)
        if match := re.match(rf"Where is the {N}\?$", text):
            between, other = re.match(rf"{R} the {N}$", option).groups()  # type: ignore[union-attr]
            return _relations(_the(scene, match[1]).box, _the(scene, other).box) == {between}
        return bool(_of(scene, option))

    return [letter for letter, option in options.items() if true(option)]


def _check(scene: Scene, asked: Answer) -> None:
    if asked.kind == "count":
        assert asked.answer == NUMBERS[_count(scene, asked.question)], asked
    elif asked.kind == "colour":
        assert asked.answer == _colour(scene, asked.question), asked
    elif asked.kind == "yes-no":
        assert asked.answer == ("yes" if _yes(scene, asked.question) else "no"), asked
    elif asked.kind == "choice":
        assert _true_options(scene, asked.question) == [asked.answer], asked
    elif asked.kind == "where":
        _where(scene, asked)
    elif asked.kind == "caption":
        _check_description(scene, asked.answer)
        assert asked.answer == describe(scene)
    elif match := re.match(rf"(?:What|Which thing) is {C}\?$", asked.question):
        assert all(t.colour for t in scene.things)
        assert [asked.answer] == [article(t.name) for t in scene.things if t.colour == match[1]], asked
    else:
        assert asked.kind == "what"
        _check_description(scene, asked.answer, coloured=False)
        names = [name for _, _, name in _said(asked.answer)]
        assert names == sorted(names)


def _asked(scenes: list[Scene], times: int = 1) -> list[tuple[Scene, Answer]]:
    rng = np.random.default_rng(0)
    return [(scene, one) for scene in scenes * times for one in questions(scene, rng, 5)]


def test_answers_are_true(scenes: list[Scene]) -> None:
    asked = _asked(scenes)
    assert len(asked) == 5 * len(scenes)
    english = [(scene, one) for scene, one in asked if one.question.isascii()]
    for scene, one in english:
        _check(scene, one)
    assert 0.08 < 1 - len(english) / len(asked) < 0.16
    kinds = {"what", "count", "colour", "where", "yes-no", "choice", "caption"}
    assert {one.kind for _, one in english} == kinds
    assert {one.kind for _, one in asked if not one.question.isascii()} == kinds


CHINESE_COLOURS: dict[str, str] = {entry["zh"]: colour for colour, entry in things_table()["colours"].items()}
CHINESE_NAMES: dict[str, str] = {entry["zh"]: name for name, entry in things_table()["classes"].items()}
CHINESE_SIDES: dict[str, Relation] = {"左边": "left of", "右边": "right of", "上面": "above", "下面": "below"}
ZN, ZC, ZS = f"({_any(CHINESE_NAMES)})", f"({_any(CHINESE_COLOURS)})", f"({_any(CHINESE_SIDES)})"


def _true_in_chinese(scene: Scene, question: str) -> bool:
    def the(name: str) -> list[Thing]:
        return _of(scene, CHINESE_NAMES[name])

    if match := re.match(f"图片里有{ZN}吗？$", question):
        return bool(the(match[1]))
    if match := re.match(f"图片里正好有([一两三四五六]).{ZN}吗？$", question):
        return len(the(match[2])) == " 一两三四五六".index(match[1])
    if match := re.match(f"{ZN}是{ZC}的吗？$", question):
        (colour,) = {t.colour for t in _painted(the(match[1]))}
        return colour == CHINESE_COLOURS[match[2]]
    match = re.match(f"{ZN}在{ZN}的{ZS}吗？$", question)
    assert match, question
    return _relations(the(match[1])[0].box, the(match[2])[0].box) == {CHINESE_SIDES[match[3]]}


def test_chinese_answers_are_true(scenes: list[Scene]) -> None:
    forms: set[str] = set()
    for scene, one in _asked(scenes, 2):
        if one.question.isascii():
            continue
        if one.kind == "yes-no":
            assert (one.answer in ("有", "是", "在")) == _true_in_chinese(scene, one.question), one
            forms.add(one.answer)
        elif one.kind == "count":
            match = re.match(f"有几.{ZN}？$", one.question)
            things = _of(scene, CHINESE_NAMES[match[1]]) if match else list(scene.things)
            assert one.answer[0] == " 一两三四五六"[len(things)], one
        elif one.kind == "colour":
            name = one.question.removesuffix("是什么颜色？")
            (colour,) = {t.colour for t in _of(scene, CHINESE_NAMES[name])}
            assert CHINESE_COLOURS[one.answer] == colour
        elif one.kind == "where" and (match := re.match(f"{ZN}在{ZN}的哪边？$", one.question)):
            first, second = (_of(scene, CHINESE_NAMES[match[i]])[0] for i in (1, 2))
            assert _relations(first.box, second.box) == {CHINESE_SIDES[one.answer]}
        elif one.kind == "choice":
            text, *lines = one.question.split("\n")
            options = {line[0]: line[3:] for line in lines if line[1:3] == ". "}
            right = options[one.answer]
            if text == "图片里有哪一个？":
                assert [o for o in options.values() if _of(scene, CHINESE_NAMES[o])] == [right]
            else:
                (colour,) = {t.colour for t in _of(scene, CHINESE_NAMES[text.removesuffix("是什么颜色？")])}
                assert CHINESE_COLOURS[right] == colour
    assert forms == {"有", "没有", "是", "不是", "在", "不在"}


def test_answers_cannot_be_guessed_from_the_wording(scenes: list[Scene]) -> None:
    asked = [one for _, one in _asked(scenes, 3)]
    letters = Counter(one.answer for one in asked if one.kind == "choice")
    assert max(letters.values()) < 1.25 * min(letters.values())

    def share(form: Callable[[str], bool]) -> float:
        answers = [one.answer for one in asked if one.kind == "yes-no" and form(one.question)]
        assert len(answers) > 100
        return float(np.mean([answer in ("yes", "有", "是", "在") for answer in answers]))

    assert 0.46 < share(lambda q: True) < 0.54
    assert 0.42 < share(lambda q: q.startswith("Is there a") and " in the " in q) < 0.58
    assert 0.4 < share(lambda q: q.startswith("Are there any ") and "picture" in q) < 0.6
    assert 0.4 < share(lambda q: bool(re.match(rf"Is the {N} {C}\?", q))) < 0.6
    assert 0.4 < share(lambda q: bool(re.match(rf"Is the {N} {R} the", q))) < 0.6


def test_letters_asked_for_are_those_of_the_options(scenes: list[Scene]) -> None:
    rng = np.random.default_rng(0)
    for scene in scenes[:200]:
        turns = letters(scene, rng, 6)
        assert len(turns) == 6
        first = turns[0][0].split("\n")
        options = dict(line.split(". ") for line in first[1:5])
        assert list(options) == ["A", "B", "C", "D"]
        assert first[0].endswith("?")
        for question, answer in [(first[5], turns[0][1]), *turns[1:]]:
            assert question == f"{options[answer]}?"


def test_questions_differ_and_follow_from_the_generator(scenes: list[Scene]) -> None:
    for scene in scenes[::25]:
        asked = questions(scene, np.random.default_rng(1), 12)
        assert asked == questions(scene, np.random.default_rng(1), 12)
        assert len({one.question for one in asked}) == 12
        assert sum(one.kind == "caption" and one.question.isascii() for one in asked) <= 1
    assert questions(scenes[0], np.random.default_rng(0), 0) == []


def test_only_some_kinds_are_asked_where_the_scene_answers_them(maker: SceneMaker) -> None:
    rng = np.random.default_rng(0)
    two, one = maker.at("tidy", 0, 0, "position"), maker.at("tidy", 0, 0, "single_object")
    kinds = Counter(a.kind for _ in range(20) for a in questions(two, rng, 4, ("where", "choice", "colour")))
    assert set(kinds) == {"where", "choice"}
    assert questions(one, rng, 4, ("where",))  # it has no place beside another: asked about anything else


def test_nothing_ambiguous_is_asked() -> None:
    rng = np.random.default_rng(0)
    dog = _thing("dog", None, (50, 50, 70, 70))
    cats = _scene(_thing("cat", "red"), _thing("cat", "blue", (50, 0, 70, 20)), dog)
    for one in questions(cats, rng, 60):
        assert one.kind not in ("colour", "where"), one
        assert "the cat" not in one.question
        assert not re.search(r"colou?r|颜色", one.question)
    own = _scene(_thing("cat"), dog)
    for one in questions(own, rng, 60):
        assert one.kind not in ("colour", "where"), one
        assert not re.search(rf"\b{C}\b (?!or)", one.question.split("\n")[0].replace("orange", "")), one
