"""SEED-Bench: how answers are read, beside LLaVA's conversion and lmms-eval; its dimensions; its data."""

from __future__ import annotations

import base64
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from janus.eval.benchmark import Item, Line
from janus.eval.choices import first_character, llava
from janus.eval.folder import Run
from janus.eval.runner import score
from janus.eval.seed import DIMENSIONS, Seed
from janus.eval.tables import write_tsv
from janus.eval.tallies import share, tally
from tests.choice_cases import cases, fingerprint, seed_tables
from tests.oracle import Oracle, answered, picture

GOLDEN = json.loads((Path(__file__).parent / "golden" / "seed.json").read_text())
OPTIONS = {"A": "one", "B": "two", "C": "three", "D": "four"}
FILMS = ("Action Recognition", "Action Prediction", "Procedure Understanding")


def line(number: int, answer: str = "A", dimension: str = "Instances Counting", shows: str = "") -> Line:
    asked = {"id": str(number), "question": "How many?", "options": OPTIONS, "answer": answer}
    return asked | {"dimension": dimension, "pictures": [shows] if shows else []}


def asked(number: int, kind: Any, **more: Any) -> dict[str, Any]:
    """A question as SEED-Bench.json has it."""
    texts = {f"choice_{letter.lower()}": text for letter, text in OPTIONS.items()}
    found = {"question_id": str(number), "question": "How many?", **texts, "answer": "B"}
    found |= {"data_id": f"{number}_shown", "data_type": "image" if int(kind) < 10 else "video"}
    return found | {"question_type_id": kind} | more


# -- reading answers, counting them -------------------------------------------------------------


def test_lmms_eval_reads_every_first_character_so() -> None:
    for (answer, options), letter in zip(cases(12_000), GOLDEN["first_character"], strict=False):
        assert (first_character(answer, options) or "-") == letter, (answer, options)


def test_llavas_conversion_counts_the_same() -> None:
    """It wants the letter and nothing else; what was not answered is wrong."""
    tables = list(seed_tables(len(GOLDEN["llava"])))
    assert fingerprint(tables) == GOLDEN["inputs"]
    names = dict(enumerate((*DIMENSIONS, *FILMS), 1))
    options = dict.fromkeys("ABCD", "-")
    for (questions, answers), golden in zip(tables, GOLDEN["llava"], strict=True):
        verdicts = []
        for one in questions:
            said = answers.get(one["question_id"])
            right = said is not None and llava(said, options) == one["answer"]
            tags = {"dimension": names[one["question_type_id"]], "type": one["data_type"]}
            verdicts.append({"item": one["question_id"], "score": float(right), "tags": tags})
        found = {name: f"{100 * one['score']:.2f}%" for name, one in tally(verdicts, "dimension").items()}
        found["Total accuracy"] = f"{100 * share(verdicts)['score']:.2f}%"
        found["image accuracy"] = f"{100 * tally(verdicts, 'type')['image']['score']:.2f}%"
        assert found == golden


def test_the_three_harnesses_disagree() -> None:
    lines = [line(number, "B") for number in range(4)]
    scored = Seed().score(answered(lines, ["B", "B.", "b", "The answer is (B)"]))
    rows = {row[0]: row[1:] for row in scored.tables[1].rows}
    assert rows == {
        "VLMEvalKit (official)": ["75.0", "1"],
        "mended (fixed)": ["100.0", "0"],
        "lmms-eval on MMBench": ["75.0", "1"],
        "lmms-eval on SEED-Bench": ["75.0", "1"],
        "LLaVA": ["25.0", "3"],
    }
    assert scored.scores["overall"] == 0.75
    assert Seed("fixed").score(answered(lines, ["B", "B.", "b", "The answer is (B)"])).scores["overall"] == 1


def test_scores_by_dimension_in_their_order() -> None:
    lines = [line(1, "A", "Visual Reasoning"), line(2, "B", "Scene Understanding"), line(3, "C")]
    scored = Seed().score(answered(lines, ["A", "A", "C"]))
    assert list(scored.scores) == ["overall", "Scene Understanding", "Instances Counting", "Visual Reasoning"]
    assert list(scored.scores.values()) == [2 / 3, 0, 1, 1]
    assert [row[0] for row in scored.tables[0].rows] == list(scored.scores)
    assert scored.details["dimensions"]["Visual Reasoning"]["expected"] == 1
    assert scored.verdicts[1]["reason"] == "says A, right is B"


def test_questions_about_one_picture_go_together_in_the_interval() -> None:
    several = [line(number, "A", shows=f"{number // 5}.png") for number in range(40)]
    alone = [line(number, "A", shows=f"{number}.png") for number in range(40)]
    said = [(number // 5 % 2 and "A") or "B" for number in range(40)]
    wide, narrow = (
        Seed().score(answered(lines, said)).details["overall_interval"] for lines in (several, alone)
    )
    assert wide[1] - wide[0] > 1.5 * (narrow[1] - narrow[0])


def test_missing_answers_leave_no_overall_but_whole_dimensions() -> None:
    lines = [line(1), line(2, "A", "Visual Reasoning"), line(3, "A", "Visual Reasoning")]
    scored = Seed().score(answered(lines, ["A", "A", None]))
    assert scored.scores == {"overall": None, "Instances Counting": 1, "Visual Reasoning": None}
    assert (scored.counts.expected, scored.counts.answered, scored.counts.parsed) == (3, 2, 2)
    assert not scored.counts.complete


def test_a_judge_reads_what_the_rule_does_not(tmp_path: Path) -> None:
    judge = Oracle("D")
    scored = Seed(judge=judge).score(answered([line(1, "D"), line(2)], ["quite a few", "A"], tmp_path))
    assert scored.scores["overall"] == 1
    assert len(judge.asked) == 1
    assert scored.details["judge"]["title"] == "an oracle"


# -- data ---------------------------------------------------------------------------------------


def test_the_official_file_with_its_folder_of_pictures(tmp_path: Path) -> None:
    """Films are left out, and pictures have names without a suffix."""
    questions = [asked(1, 1), asked(2, 9), asked(3, 10), asked(4, 12), asked(5, 5)]
    data = {"questions": questions, "question_type": {name: n for n, name in enumerate(DIMENSIONS, 1)}}
    (tmp_path / "SEED-Bench.json").write_text(json.dumps(data))
    (tmp_path / "SEED-Bench-image").mkdir()
    for number in (1, 2, 5):
        (tmp_path / "SEED-Bench-image" / f"{number}_shown").write_bytes(picture(number))
    samples = Seed().samples(tmp_path, False)
    assert [one["id"] for one in samples.lines] == ["1", "2", "5"]
    assert [one["dimension"] for one in samples.lines] == [DIMENSIONS[i] for i in (0, 8, 4)]
    assert len(samples.pictures) == 3
    assert Seed().samples(tmp_path / "SEED-Bench.json", False, tmp_path / "SEED-Bench-image") == samples
    (tmp_path / "SEED-Bench-image" / "2_shown").unlink()
    with pytest.raises(ValueError, match="row 2: there is no picture 2_shown"):
        Seed().samples(tmp_path, False)


def test_the_hubs_parquet_with_films(tmp_path: Path) -> None:
    frame = {"bytes": picture(1), "path": None}
    rows = [
        asked(1, "3") | {"image": [frame]},
        asked(2, "11") | {"image": [frame] * 8},
        asked(3, "6") | {"image": [frame]},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "test-00000-of-00001.parquet")
    samples = Seed().samples(tmp_path, False)
    assert [one["dimension"] for one in samples.lines] == ["Instance Attributes", "Spatial Relation"]
    assert samples.lines[0]["options"] == OPTIONS


def tsv(folder: Path, **more: Any) -> Path:
    cells = {"index": 7, "question": "How many?", **OPTIONS, "answer": "C", "category": "Instances Counting"}
    image = base64.b64encode(picture()).decode()
    write_tsv(folder / "SEEDBench_IMG.tsv", [cells | {"image": image} | more])
    return folder


def test_vlmevalkits_file(tmp_path: Path) -> None:
    [one] = Seed().samples(tsv(tmp_path), False).lines
    assert (one["id"], one["dimension"], one["answer"]) == ("7", "Instances Counting", "C")
    assert Seed().prompt(one).startswith("How many?\nA. one\nB. two\nC. three\nD. four\n")
    [same] = Seed().samples(tsv(tmp_path, category="instances_counting"), False).lines
    assert same == one


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"category": "Taste"}, "category must be one of Scene Understanding, .*, not 'Taste'"),
        ({"index": ""}, "neither a question_id nor an index"),
        ({"answer": "two"}, "the answer must be the letter of an option, not 'two'"),
        ({"image": "AAAA" * 30}, "row 1: the image is"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(tmp_path: Path, more: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Seed().samples(tsv(tmp_path, **more), False)


def test_a_dimension_that_there_is_not(tmp_path: Path) -> None:
    (tmp_path / "SEED-Bench.json").write_text(json.dumps({"questions": [asked(1, 0)]}))
    (tmp_path / "1_shown").write_bytes(picture())
    with pytest.raises(ValueError, match="question_type_id must be from 1 to 9, not '0'"):
        Seed().samples(tmp_path, False)


def test_the_fixture_is_in_the_official_form_and_can_be_scored_whole(tmp_path: Path) -> None:
    bench = Seed()
    samples = bench.samples(None, True)
    assert len(samples.lines) == 12
    assert len(Counter(one["dimension"] for one in samples.lines)) == 5
    for one in samples.lines:
        assert len(set(one["options"].values())) == 4
    plan = {
        "benchmark": "seed",
        "samples": {"title": samples.title, "count": 12, "used": 12, "published": False},
        "settings": {"each": 1, "model": "-"},
        "versions": {},
    }
    run = Run.begin(tmp_path, plan, samples.lines, samples.pictures)
    run.journal().add(
        [{"item": Item(place, 0).key, "answer": one["answer"]} for place, one in enumerate(samples.lines)]
    )
    results, scored = score(bench, tmp_path)
    assert (results["complete"], results["scores"]["overall"]) == (True, 1)
    assert scored.caveat == "not the published data (the package's fixture)"
    assert scored.notes[0].startswith("The official script ranks options by their likelihood")
