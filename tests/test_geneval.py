"""GenEval's rules, its samples, and the package's own prompts."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from janus.data import scenes
from janus.data.subjects import COLOURS, NAMES, held_out
from janus.eval.benchmark import Answers, Item, Mode, Samples
from janus.eval.detect import Detection
from janus.eval.folder import Run
from janus.eval.geneval import GenEval, read_metadata
from janus.eval.geneval_rules import RULES, Seen, counted, overlap, relations, verdict
from janus.eval.geneval_scores import scores_of
from janus.eval.prompts import COUNTS, TASKS, make_prompts, shows_held_out
from janus.eval.runner import score
from janus.eval.seen import see
from tests.geneval_cases import cases
from tests.stand_ins import LINES, Numbers, Truth, numbers

GOLDEN = Path(__file__).parent / "golden" / "geneval.json"
MIDDLE = (40.0, 40.0, 60.0, 60.0)


def thing(name: str, score: float = 0.95, at: tuple[float, float] = (40, 40), colour: str = "red") -> Seen:
    """20 by 20 pixels."""
    return Seen(name, score, (at[0], at[1], at[0] + 20, at[1] + 20), colour)


def line(tag: str, *include: dict[str, Any], exclude: int = 0) -> dict[str, Any]:
    clauses = [{"count": 1, **clause} for clause in include]
    more = {"exclude": [{"class": include[0]["class"], "count": exclude}]} if exclude else {}
    return {"tag": tag, "include": clauses, **more, "prompt": "-"}


def judge(sample: dict[str, Any], found: list[Seen], mode: Mode = "official") -> str:
    """The reasons, empty if the picture is right."""
    judged = verdict(sample, counted(found, sample["tag"], RULES[mode]), RULES[mode])
    assert judged.correct == (not judged.reasons)
    return "\n".join(judged.reasons)


# -- the rules ----------------------------------------------------------------------------------


def test_the_official_script_agrees_on_every_case() -> None:
    golden = json.loads(GOLDEN.read_text())["failed_clauses"]
    assert len(golden) == 12_000
    rules = RULES["official"]
    for expected, (sample, found) in zip(golden, cases(len(golden)), strict=True):
        judged = verdict(sample, counted(found, sample["tag"], rules), rules)
        assert len(judged.reasons) == int(expected), (sample, found)


ONE = line("single_object", {"class": "cat"})
TWO = line("two_object", {"class": "cat"}, {"class": "dog"})
THREE = line("counting", {"class": "cat", "count": 3}, exclude=4)
RED = line("colors", {"class": "cat", "color": "red"})
BOTH = line("color_attr", {"class": "cat", "color": "red"}, {"class": "dog", "color": "blue"})
LEFT = line("position", {"class": "cat"}, {"class": "dog", "position": ["left of", 0]})
CAT, DOG = thing("cat"), thing("dog", at=(0, 40))


@pytest.mark.parametrize(
    ("sample", "found", "reason"),
    [
        (ONE, [CAT, DOG], ""),
        (ONE, [DOG], "cat: wanted 1, found 0"),
        (ONE, [thing("cat", 0.31)], ""),
        (ONE, [thing("cat", 0.3)], "cat: wanted 1, found 0"),  # not above 0.3
        (ONE, [thing("cat", float(np.float32(0.3)))], "cat: wanted 1, found 0"),  # a little more as a double
        (TWO, [CAT, DOG], ""),
        (TWO, [CAT], "dog: wanted 1, found 0"),
        (TWO, [], "cat: wanted 1, found 0\ndog: wanted 1, found 0"),
        (THREE, [CAT] * 3, ""),
        (THREE, [CAT] * 2, "cat: wanted 3, found 2"),
        (THREE, [CAT] * 4, "cat: wanted fewer than 4, found 4"),
        (THREE, [CAT] * 3 + [thing("cat", 0.9)], ""),  # the fourth is too doubtful to count
        (THREE, [CAT] * 3 + [thing("cat", 0.91)], "cat: wanted fewer than 4, found 4"),
        (THREE, [CAT] * 2 + [thing("cat", 0.9)], "cat: wanted 3, found 2"),
        (RED, [CAT], ""),
        (RED, [thing("cat", colour="blue")], "cat: wanted 1 red, found blue"),
        (RED, [DOG], "cat: wanted 1, found 0"),
        (BOTH, [CAT, thing("dog", colour="blue")], ""),
        (
            BOTH,
            [thing("cat", colour="blue"), thing("dog")],
            "cat: wanted 1 red, found blue\ndog: wanted 1 blue, found red",
        ),
        (LEFT, [CAT, DOG], ""),
        (LEFT, [CAT, thing("dog", at=(80, 40))], "dog: wanted left of the cat, found right of it"),
        (LEFT, [CAT, thing("dog", at=(40, 80))], "dog: wanted left of the cat, found below it"),
        (LEFT, [CAT, thing("dog")], "dog: wanted left of the cat, found in no clear place beside it"),
        (LEFT, [DOG], "cat: wanted 1, found 0\ndog: nothing there that it could be left of"),
        (LEFT, [CAT], "dog: wanted 1, found 0"),
        (LEFT, [CAT, thing("dog", at=(0, 0))], ""),  # on the diagonal both relations hold
        (LEFT, [CAT, thing("dog", 0.9, at=(0, 40)), thing("dog", at=(80, 40))],
         "dog: wanted left of the cat, found right of it"),  # the most confident one is looked at
    ],
)  # fmt: skip
def test_verdicts_of_the_six_tasks(sample: dict[str, Any], found: list[Seen], reason: str) -> None:
    assert judge(sample, found) == reason


def test_at_most_sixteen_of_a_class_count() -> None:
    many = line("counting", {"class": "cat", "count": 16}, exclude=17)
    assert judge(many, [CAT] * 30) == ""
    assert judge(line("two_object", {"class": "cat", "count": 17}), [CAT] * 30) == "cat: wanted 17, found 16"


def test_the_edges_of_a_place() -> None:
    def where(across: float, down: float = 0.0) -> set[str]:
        moved = (40 + across, 40 + down, 60 + across, 60 + down)
        return relations(Detection("cat", 1, moved), Detection("dog", 1, MIDDLE), 0.1)

    assert where(-8) == where(8) == set()  # half of the way is 4 pixels, and 4 is the margin
    assert where(-8.1) == {"left of"}
    assert where(8.1) == {"right of"}
    assert where(0, -8.1) == {"above"}
    assert where(0, 8.1) == {"below"}
    assert where(0, 0) == where(4, 4) == set()
    assert where(-30, -30) == {"left of", "above"}
    assert where(-30, -10) == {"left of"}
    wide = Detection("bus", 1, (0.0, 0.0, 100.0, 100.0))
    assert relations(wide, Detection("bus", 1, (40.0, 0.0, 140.0, 100.0)), 0.1) == set()
    assert relations(wide, Detection("bus", 1, (40.1, 0.0, 140.1, 100.0)), 0.1) == {"left of"}


def test_overlap_counts_edges_as_pixels() -> None:
    assert overlap(CAT, CAT) == 1
    assert overlap(Detection("a", 1, (0, 0, 9, 9)), Detection("b", 1, (5, 0, 14, 9))) == pytest.approx(1 / 3)
    assert overlap(Detection("a", 1, (0, 0, 9, 9)), Detection("b", 1, (20, 0, 29, 9))) == 0


def test_fixed_counts_the_same_pixels_once() -> None:
    same = [CAT, thing("dog", 0.5)]
    assert judge(TWO, same) == ""
    assert judge(TWO, same, "fixed") == "dog: wanted 1, found 0"
    beside = [CAT, thing("dog", 0.5, at=(42, 40))]  # IoU 19 of 23
    assert judge(TWO, beside, "fixed") == ""
    twice = [CAT, thing("cat", 0.97), thing("cat", at=(0, 0)), thing("cat", at=(0, 90))]
    assert judge(THREE, twice) == "cat: wanted fewer than 4, found 4"
    assert judge(THREE, twice, "fixed") == ""


def test_fixed_looks_at_all_things_for_a_colour() -> None:
    cats = [thing("cat", 0.99, at=(0, 0), colour="blue"), CAT]
    assert judge(RED, cats) == "cat: wanted 1 red, found blue"
    assert judge(RED, cats, "fixed") == ""
    assert judge(RED, cats[:1], "fixed") == "cat: wanted 1 red, found blue"


def test_fixed_has_no_overall_without_all_tasks(tmp_path: Path) -> None:
    some = [sample for sample in LINES if sample["tag"] != "position"]
    answers = Answers(tmp_path, some, "ten prompts", False, 1, {})
    correct = {Item(index, 0).key: index < 5 for index in range(len(some))}
    official, details = scores_of(answers, correct, "official")
    assert official["position"] is None
    assert official["overall"] == pytest.approx((1 + 1 + 0.5 + 0 + 0) / 5)
    assert details["tasks"]["position"]["prompts"] == 0
    fixed, details = scores_of(answers, correct, "fixed")
    assert fixed["overall"] is details["overall_interval"] is None
    assert fixed["counting"] == 0.5


# -- what a detector saw ------------------------------------------------------------------------


def test_only_what_may_count_is_kept_and_colours_are_asked_where_wanted(tmp_path: Path) -> None:
    class Doubtful(Truth):
        asked: list[str]

        def detect(self, pictures: Any) -> list[list[Detection]]:
            more = [Detection("tie", 0.3, MIDDLE), Detection("oven", np.float32(0.5), MIDDLE)]  # type: ignore[arg-type]
            return [[*found, *more] for found in super().detect(pictures)]

        def colours(self, picture: Any, found: Any) -> list[str]:
            self.asked += [thing.name for thing in found]
            return super().colours(picture, found)

    detector = Doubtful(LINES)
    detector.asked = []
    numbers(tmp_path, Numbers())
    answers = Run.open(tmp_path).answers()
    steps: list[tuple[int, int]] = []
    seen = see(answers, detector, lambda *step: steps.append(step))
    assert steps == [(16, 48), (32, 48), (48, 48)]
    coloured = [clause["class"] for sample in LINES for clause in sample["include"] if "color" in clause]
    assert Counter(detector.asked) == {name: 4 * n for name, n in Counter(coloured).items()}
    assert all(Seen("oven", 0.5, MIDDLE) in things for things in seen.values())
    assert min(thing.score for things in seen.values() for thing in things) == 0.5
    assert see(answers, Doubtful(LINES)) == seen
    assert detector.looked == 48


def test_a_detector_must_name_known_colours(tmp_path: Path) -> None:
    class Odd(Truth):
        def colours(self, picture: Any, found: Any) -> list[str]:
            return ["mauve"] * len(found)

    numbers(tmp_path, Numbers())
    with pytest.raises(ValueError, match=r"oracle named the colours \['mauve'\] of 1 things"):
        score(GenEval(Odd(LINES)), tmp_path)


def test_the_verdicts_speak_the_official_language(tmp_path: Path) -> None:
    numbers(tmp_path, Numbers())
    _, scored = score(GenEval(Truth(LINES)), tmp_path)
    for verdict_line in scored.verdicts:
        sample = json.loads(verdict_line["metadata"])
        assert sample in LINES
        assert (verdict_line["tag"], verdict_line["prompt"]) == (sample["tag"], sample["prompt"])
        details = json.loads(verdict_line["details"])
        assert set(details) == {clause["class"] for clause in sample["include"]}
        assert all(len(box) == 5 for boxes in details.values() for box in boxes)


# -- samples ------------------------------------------------------------------------------------


def test_own_prompts_have_the_official_shape() -> None:
    lines = make_prompts()
    assert Counter(sample["tag"] for sample in lines) == COUNTS
    assert list(dict.fromkeys(sample["tag"] for sample in lines)) == list(TASKS)
    assert len({sample["prompt"] for sample in lines}) == 553
    assert {sample["include"][0]["class"] for sample in lines[:80]} == set(NAMES)
    assert len(NAMES) == 80
    assert make_prompts() == lines != make_prompts(1)
    number = {"two": 2, "three": 3, "four": 4}
    for sample in lines:
        include = sample["include"]
        names = [clause["class"] for clause in include]
        shades = [clause.get("color") for clause in include]
        a, b = [f"an? {name}" for name in names] * (3 - len(names))
        if sample["tag"] == "position":
            relation, reference = include[1]["position"]
            assert reference == 0
            expected = f"{b} {relation} {a}"
        elif sample["tag"] == "counting":
            words = f"(two|three|four) {names[0]}(s|es)"
            found = re.fullmatch(f"a photo of {words}", sample["prompt"])
            assert found
            assert include[0]["count"] == number[found[1]]
            assert sample["exclude"] == [{"class": names[0], "count": number[found[1]] + 1}]
            continue
        else:
            coloured = [f"an? {shade} {name}" for shade, name in zip(shades, names, strict=True)]
            plain = [f"an? {name}" for name in names]
            expected = " and ".join(plain if None in shades else coloured)
        assert re.fullmatch(f"a photo of {expected}", sample["prompt"])
        assert not re.search(r" a [aeiou]| an [^aeiou]", sample["prompt"])
        assert all(clause["count"] == 1 for clause in include)
        assert None in shades or "person" not in names
        assert len(set(names)) == len(names)
    shades_used = {clause.get("color") for sample in lines for clause in sample["include"]}
    assert shades_used == {None, *COLOURS}


def test_prompts_of_held_out_combinations() -> None:
    counts = {task: 12 for task in TASKS if task != "single_object"}
    for wanted in (True, False):
        lines = make_prompts(0, counts, lambda line, wanted=wanted: shows_held_out(line) == wanted)  # type: ignore[misc]
        found = Counter(line["tag"] for line in lines)
        assert found["two_object"] == found["position"] == 12
        for line in lines:
            clauses = line["include"]
            things = [(c["class"], c.get("color")) for c in clauses for _ in range(c["count"])]
            assert held_out(things) == wanted
    every = make_prompts(0, {"counting": 200}, shows_held_out)
    assert 0 < len(every) < 60


def test_the_world_has_the_same_classes_and_colours() -> None:
    assert scenes.NAMES == NAMES
    assert scenes.COLOURS == COLOURS


def test_own_prompts_pass_the_check_of_official_ones(tmp_path: Path) -> None:
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text("\n".join(map(json.dumps, make_prompts())) + "\n\n")
    samples = read_metadata(tmp_path)
    assert samples.lines == tuple(make_prompts())
    assert samples.title == "lines of evaluation_metadata.jsonl"
    fixture = GenEval().samples(None, True)
    assert Counter(sample["tag"] for sample in fixture.lines) == dict.fromkeys(TASKS, 2)
    assert GenEval().samples(None, False).lines == samples.lines


def test_the_hash_of_samples_is_that_of_their_content() -> None:
    one, two = {"a": 1, "b": 2}, {"b": 2, "a": 1}
    assert Samples("-", (one,)).sha256 == Samples("?", (two,)).sha256 != Samples("-", (one, two)).sha256


@pytest.mark.parametrize(
    ("counts", "words"), [({"colours": 1}, "'colours'"), ({"counting": 241}, "at most 240")]
)
def test_prompts_that_do_not_exist(counts: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_prompts(0, counts)


GOOD = '{"tag": "single_object", "include": [{"class": "cat", "count": 1}], "prompt": "a photo of a cat"}'


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (GOOD[:-9], "line 2: .*column"),
        ("[1]", "line 2: not a JSON object"),
        (GOOD.replace("single_object", "one"), "line 2: tag must be one of .* not 'one'"),
        (GOOD.replace('"tag"', '"kind"'), r"line 2: unknown keys \['kind'\]"),
        (GOOD.replace("a photo of a cat", " "), "line 2: prompt must be some words"),
        (GOOD.replace("photo", r"\ud800"), "line 2: .*surrogates not allowed"),
        (GOOD.replace('"cat"', '"unicorn"'), "line 2: class must be one of the eighty names, not 'unicorn'"),
        (GOOD.replace("1", "0"), "line 2: count must be a whole number from 1, not 0"),
        (GOOD.replace("1", "true"), "line 2: count must be a whole number from 1, not True"),
        (GOOD.replace(', "count": 1', ""), "line 2: a clause has class and count, and may have color or pos"),
        (GOOD.replace("1", '1, "color": "mauve"'), "line 2: color must be one of .* not 'mauve'"),
        (GOOD.replace("1", '1, "position": ["left of", 0]'), "line 2: position must be .* an earlier clause"),
        (GOOD.replace('[{"class": "cat", "count": 1}]', "[]"), "line 2: include must be a list of at least"),
        (GOOD.replace('"prompt"', '"exclude": {}, "prompt"'), "line 2: exclude must be a list"),
    ],
)
def test_bad_lines_are_named_with_their_number(tmp_path: Path, bad: str, words: str) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text(f"{GOOD}\n{bad}\n{GOOD}\n")
    with pytest.raises(ValueError, match=words):
        read_metadata(path)


def test_many_bad_lines_and_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text("{}\n" * 12)
    with pytest.raises(ValueError, match=r"line 1: (.|\n)*line 10: (.|\n)*and 2 more"):
        read_metadata(path)
    path.write_text("\n")
    with pytest.raises(ValueError, match="has no samples"):
        read_metadata(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="cannot read"):
        read_metadata(path)
    with pytest.raises(ValueError, match=r"there is no .*evaluation_metadata\.jsonl"):
        read_metadata(tmp_path)
    with pytest.raises(ValueError, match="mode must be one of official, fixed, not 'lenient'"):
        GenEval(mode="lenient")  # type: ignore[arg-type]
