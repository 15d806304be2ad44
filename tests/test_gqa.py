"""GQA: when an answer is right, beside the official script and three others, its scores, its data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from janus.eval.benchmark import Line, Mode, Scored
from janus.eval.fixtures import fixture_scenes
from janus.eval.gqa import GQA
from janus.eval.gqa_scores import READERS, SEMANTIC, distribution, mended, steps_of
from janus.eval.tables import write_tsv
from tests.answered import answered, square
from tests.yesno_cases import fingerprint, gqa_runs, short_answers

GOLDEN = json.loads((Path(__file__).parent / "golden" / "gqa.json").read_text())
CASES = 12_000


def scored(lines: Sequence[Line], said: Sequence[str | None], mode: Mode = "official") -> Scored:
    return GQA(mode).score(answered(lines, said))


def written(folder: Path, run: Sequence[dict[str, Any]]) -> Path:
    """As the official file, with pictures beside it."""
    images = folder / "images"
    images.mkdir()
    for name in {one["imageId"] for one in run}:
        (images / f"{name}.jpg").write_bytes(square(int(name[1:])))
    path = folder / "testdev_balanced_questions.json"
    path.write_text(json.dumps({one["id"]: {k: v for k, v in one.items() if k != "id"} for one in run}))
    return path


# -- when an answer is right --------------------------------------------------------------------


def test_the_official_script_and_three_others_agree_on_every_answer() -> None:
    cases = list(short_answers(CASES))
    assert fingerprint(cases) == GOLDEN["inputs"]
    names = ("GQA's eval.py (official)", "eval.py after LLaVA's step", "VLMEvalKit", "lmms-eval")
    for (right, said), letter in zip(cases, GOLDEN["verdicts"], strict=True):
        found = "".join(str(int(READERS[name].agrees(said, right))) for name in names)
        assert found == GOLDEN["legend"][letter], (right, said)


@pytest.mark.parametrize(
    ("said", "right", "official", "llava", "vlmevalkit", "lmms_eval", "fixed"),
    [
        ("yes", "yes", 1, 1, 1, 1, 1),
        ("Yes", "yes", 0, 1, 1, 1, 1),
        ("yes.", "yes", 0, 1, 0, 1, 1),
        ("yes..", "yes", 0, 1, 0, 1, 1),
        (".yes", "yes", 0, 0, 0, 1, 1),
        (" yes", "yes", 0, 0, 1, 0, 1),
        ("yes\n", "yes", 0, 0, 1, 0, 1),
        ("**yes**", "yes", 0, 0, 0, 1, 1),
        ("Yes.\n", "yes", 0, 0, 0, 0, 1),
        ("baseball  bat", "baseball bat", 0, 0, 0, 0, 1),
        ("tshirt", "t-shirt", 0, 0, 0, 1, 0),
        ("t shirt", "t-shirt", 0, 0, 0, 0, 0),
        ("the bed", "bed", 0, 0, 0, 0, 0),
        ("beds", "bed", 0, 0, 0, 0, 0),
        ("a.m.", "a.m", 0, 1, 0, 1, 1),
        ("ｙｅｓ", "yes", 0, 0, 0, 0, 1),
        ("", "yes", 0, 0, 0, 0, 0),
    ],
)
def test_where_the_rules_disagree(said: str, right: str, official: int, llava: int, vlmevalkit: int,
                                  lmms_eval: int, fixed: int) -> None:  # fmt: skip
    wanted = [official, llava, fixed, vlmevalkit, lmms_eval]
    assert [rule.agrees(said, right) for rule in READERS.values()] == wanted


@given(st.text(max_size=20))
def test_reading_twice_changes_nothing(text: str) -> None:
    assert mended(mended(text)) == mended(text)


# -- scores -------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [0, 1])
def test_the_official_scripts_numbers_of_a_whole_benchmark(tmp_path: Path, which: int) -> None:
    """All that eval.py prints for the test-dev questions, to the digits that it prints."""
    assert fingerprint(gqa_runs()) == GOLDEN["input_runs"]
    run = [one for one in list(gqa_runs())[which] if one["isBalanced"]]
    lines = GQA().samples(written(tmp_path, run), False).lines
    golden = GOLDEN["runs"][which]
    result = scored(lines, [one["said"] for one in run])
    wanted = golden["official"]
    assert [100 * (result.scores[name] or 0) for name in ("overall", "binary", "open")] == pytest.approx(
        [wanted[name] for name in ("accuracy", "binary", "open")], abs=0.00501
    )
    for axis in ("structural", "semantic", "steps", "words"):
        found = {value: [100 * one["score"], one["of"]] for value, one in result.details[axis].items()}
        assert {value: of for value, (_, of) in found.items()} == {
            v: of for v, (_, of) in wanted[axis].items()
        }
        for value, (score, _) in wanted[axis].items():
            assert found[value][0] == pytest.approx(score, abs=0.00501)
    assert result.details["distribution"] == pytest.approx(wanted["distribution"], abs=0.00501)
    step = result.details["readers"]["eval.py after LLaVA's step"]
    assert 100 * step == pytest.approx(golden["llava"]["accuracy"], abs=0.00501)
    assert any(f"here {100 * step:.1f}." in note for note in result.notes)


def question(number: int, answer: str, **more: Any) -> Line:
    types = {"structural": "verify", "semantic": "obj"}
    line = {"id": str(number), "question": "Is it so?", "answer": answer, "types": types, "group": None}
    return line | {"steps": None, "pictures": [f"{number}.jpg"]} | more


def test_official_compares_as_it_is_and_fixed_does_not() -> None:
    lines = [question(0, "yes"), question(1, "no"), question(2, "left", types={"structural": "query"})]
    said = ["Yes.", "no", ""]
    official, fixed = scored(lines, said), scored(lines, said, "fixed")
    assert official.scores == {"overall": pytest.approx(1 / 3), "binary": 0.5, "open": 0}
    assert fixed.scores == {"overall": pytest.approx(2 / 3), "binary": 1, "open": 0}
    assert (official.counts.parsed, official.counts.scored) == (2, 3)
    assert [line["reason"] for line in official.verdicts] == ["not the same", "", "no answer"]
    assert "mended rules" in fixed.caveat
    assert [row[1] for row in official.tables[1].rows] == ["33.3", "66.7", "66.7", "33.3", "66.7"]
    assert ("Janus-Pro-7B", "62.0") in official.tables[2].rows


def test_without_types_there_is_accuracy_alone() -> None:
    result = scored([question(0, "yes", types={})], ["yes"])
    assert result.scores == {"overall": 1, "binary": None, "open": None}
    assert result.details["structural"] == {}


def test_a_missing_answer_leaves_no_score() -> None:
    result = scored([question(0, "yes"), question(1, "no")], ["yes", None])
    assert result.scores == {"overall": None, "binary": None, "open": None}
    assert result.details["overall_interval"] is result.details["distribution"] is None
    assert not result.counts.complete


def test_intervals_draw_pictures_with_all_their_questions() -> None:
    said = ["yes" if n < 20 else "no" for n in range(40)]
    apart = scored([question(n, "yes") for n in range(40)], said).details["overall_interval"]
    some = [question(n, "yes", pictures=[f"{n // 10}.jpg"]) for n in range(40)]
    together = scored(some, said).details["overall_interval"]
    assert together[0] < apart[0] < 0.5 < apart[1] < together[1]


def test_the_distribution_weighs_groups_by_their_questions() -> None:
    assert distribution(["a"], ["a"], [None]) is None
    assert distribution(["a", "b"], ["a", "b"], ["x", "x"]) == 0
    assert distribution(["a", "a", "b"], ["a", "b", "b"], ["x", "x", "y"]) == pytest.approx(
        (0.5 * 2 + 0) / 3 / 100
    )


def test_steps_leave_out_the_last_question() -> None:
    steps = [{"operation": "select", "argument": "cat"}, {"operation": "relate", "argument": "dog,left"}]
    for last in (("query", "name"), ("exist", "?"), ("choose name", "cat|dog")):
        assert steps_of([*steps, dict(zip(("operation", "argument"), last, strict=True))]) == 2
    assert steps_of([*steps, {"operation": "query", "argument": "color"}]) == 3


# -- data ---------------------------------------------------------------------------------------


def test_lmms_labs_two_files_are_joined(tmp_path: Path) -> None:
    for name, rows in (
        ("images", [{"id": f"n{n}", "image": {"bytes": square(n, "JPEG"), "path": None}} for n in range(3)]),
        (
            "instructions",
            [
                {
                    "id": f"0{n}",
                    "imageId": f"n{n % 2}",
                    "question": "Is it so?",
                    "answer": "yes",
                    "isBalanced": True,
                    "groups": {"global": "thing", "local": "x"},
                    "types": {"detailed": "d", "semantic": "rel", "structural": "query"},
                    "semantic": [{"operation": "select", "argument": "a", "dependencies": []}],
                }
                for n in range(4)
            ],
        ),
    ):
        folder = tmp_path / f"testdev_balanced_{name}"
        folder.mkdir()
        parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "testdev-00000-of-00001.parquet")
    found = GQA().samples(tmp_path, False)
    assert [line["id"] for line in found.lines] == ["00", "01", "02", "03"]
    shown = [found.pictures[line["pictures"][0]] for line in found.lines]
    assert shown == [square(0, "JPEG"), square(1, "JPEG"), square(0, "JPEG"), square(1, "JPEG")]
    assert found.lines[0]["types"] == {"structural": "query", "semantic": "rel"}
    assert (found.lines[0]["group"], found.lines[0]["steps"]) == ("thing", 1)
    with pytest.raises(ValueError, match=r"there is no picture n0\.jpg"):
        GQA().samples(tmp_path / "testdev_balanced_instructions" / "testdev-00000-of-00001.parquet", False)


@pytest.mark.parametrize("types", [json.dumps, repr])
def test_a_tsv_with_types_as_text(tmp_path: Path, types: Any) -> None:
    row = {"index": 5, "image": fixture_scenes(1)[0].base64, "question": "Is it so?", "answer": "yes"}
    write_tsv(tmp_path / "GQA_TestDev_Balanced.tsv", [row | {"types": types({"structural": "query"})}])
    (line,) = GQA().samples(tmp_path, False).lines
    assert (line["id"], line["types"], line["steps"]) == ("5", {"structural": "query"}, None)
    assert GQA().prompt(line) == "Is it so?\nAnswer the question using a single word or phrase."


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"isBalanced": False}, "'000000': isBalanced is false"),
        ({"answer": ""}, "'000000': there is no answer"),
        ({"question": None}, "'000000': there is no question"),
        ({"imageId": "n999"}, r"'000000': there is no picture n999\.jpg"),
        ({"imageId": None}, "'000000': no picture"),
    ],
)
def test_bad_questions_are_named(tmp_path: Path, change: Line, words: str) -> None:
    run = [one | {"isBalanced": True} for one in next(gqa_runs())[:2]]
    path = written(tmp_path, run)
    whole = json.loads(path.read_text())
    whole["000000"] |= change
    path.write_text(json.dumps(whole))
    with pytest.raises(ValueError, match=words):
        GQA().samples(path, False)


def test_the_fixture_asks_short_questions_of_several_types() -> None:
    lines = GQA().samples(None, True).lines
    assert {line["types"]["structural"] for line in lines} == {"query", "verify", "logical", "choose"}
    assert {line["types"]["semantic"] for line in lines} == set(SEMANTIC) - {"global"}
    assert {line["answer"] for line in lines} >= {"yes", "no"}
    scenes = {scene.png: scene.facts for scene in fixture_scenes()}
    pictures = GQA().samples(None, True).pictures
    for line in lines:
        facts = scenes[pictures[line["pictures"][0]]]
        if line["types"]["semantic"] == "attr":
            assert line["answer"] in facts.uniform.values()
        if line["types"]["structural"] == "choose":
            thing, where, other = facts.pairs[0]
            assert f"Is the {thing} " in line["question"]
            assert line["question"].endswith(f"the {other}?")
            assert where.startswith(line["answer"])
    assert scored(lines, [line["answer"] for line in lines]).scores["overall"] == 1
