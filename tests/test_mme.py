"""MME: its points beside the official tool's and two harnesses', and its data."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from janus.eval.benchmark import Line, Mode, Scored
from janus.eval.fixtures import fixture_scenes
from janus.eval.mme import MME
from janus.eval.mme_scores import COGNITION, PERCEPTION, SUBTASKS, points
from janus.eval.tables import Row, write_tsv
from tests.answered import answered, square
from tests.yesno_cases import fingerprint, mme_runs

GOLDEN = json.loads((Path(__file__).parent / "golden" / "mme.json").read_text())


def scored(lines: Sequence[Line], said: Sequence[str | None], mode: Mode = "official") -> Scored:
    return MME(mode).score(answered(lines, said))


def samples(run: Sequence[dict[str, str]]) -> list[Line]:
    return [
        {
            "id": str(number),
            "question": one["question"],
            "answer": one["label"].lower(),
            "subtask": one["subtask"],
            "image": one["image"],
            "pictures": [one["image"]],
        }
        for number, one in enumerate(run)
    ]


def every(pairs: int = 2) -> list[Line]:
    """So many pairs of each subtask."""
    run = [
        {"subtask": subtask, "image": f"{n}.jpg", "question": f"Is it {label}?", "label": label}
        for subtask in SUBTASKS
        for n in range(pairs)
        for label in ("Yes", "No")
    ]
    return samples(run)


# -- points -------------------------------------------------------------------------------------


def test_the_official_tools_points_of_whole_benchmarks() -> None:
    assert fingerprint(mme_runs()) == GOLDEN["input_runs"]
    for run, golden in zip(mme_runs(), GOLDEN["runs"], strict=True):
        result = scored(samples(run), [one["answer"] for one in run])
        wanted = golden["official"]
        assert {name: result.scores[name] for name in wanted} == pytest.approx(wanted, abs=1e-9)
        assert result.scores["overall"] == pytest.approx(wanted["perception"] + wanted["cognition"])
        others = {row[0]: [float(cell) for cell in row[1:3]] for row in result.tables[1].rows}
        assert others["VLMEvalKit"] == pytest.approx(golden["vlmevalkit"], abs=0.0501)
        assert others["lmms-eval"] == pytest.approx(golden["lmms_eval"], abs=0.0501)


def test_a_pair_counts_only_whole() -> None:
    assert points([[True, True]]) == (1, 1)
    assert points([[True, False], [False, True]]) == (0.5, 0)
    assert points([[True, True], [False, False]]) == (0.5, 0.5)
    lines = every(2)
    said = ["Yes" for _ in lines]
    result = scored(lines, said)
    assert result.scores["existence"] == 50  # half of the questions, no whole pair
    assert (result.scores["perception"], result.scores["cognition"], result.scores["overall"]) == (
        500,
        200,
        700,
    )
    assert scored(lines, [line["answer"] for line in lines]).scores["overall"] == 2800


def test_unread_answers_are_wrong_and_counted() -> None:
    lines = every(1)
    said = ["Answer: yes" if line["answer"] == "yes" else "no" for line in lines]
    official, fixed = scored(lines, said), scored(lines, said, "fixed")
    assert official.scores["perception"] == 500
    assert (official.counts.parsed, official.counts.scored, official.counts.expected) == (14, 28, 28)
    assert official.verdicts[0]["read"] is None
    assert official.verdicts[0]["reason"] == "says neither"
    assert official.details["subtasks"]["OCR"]["unread"] == 1
    assert fixed.scores["overall"] == 2800
    assert "mended rules" in fixed.caveat


def test_a_missing_answer_leaves_its_subtask_and_sum_without_points() -> None:
    lines = every(1)
    said: list[str | None] = [line["answer"] for line in lines]
    said[-1] = None
    result = scored(lines, said)
    assert result.scores["perception"] == 2000
    assert result.scores["code_reasoning"] is result.scores["cognition"] is result.scores["overall"] is None
    assert not result.counts.complete


def test_a_missing_subtask_is_named_and_there_is_no_sum() -> None:
    lines = [line for line in every(1) if line["subtask"] not in ("OCR", "posters")]
    result = scored(lines, [line["answer"] for line in lines])
    assert result.scores["perception"] is result.scores["overall"] is None
    assert result.scores["cognition"] == 800
    assert result.caveat == "not the published data (some questions); without posters, OCR"
    assert "There is no sum without posters, OCR." in result.notes


def test_intervals_draw_pairs_within_each_subtask() -> None:
    run = next(mme_runs())
    result = scored(samples(run), [one["answer"] for one in run])
    for name in ("perception", "cognition", "overall"):
        low, high = result.details["intervals"][name]
        assert low < (result.scores[name] or 0) < high
    low, high = result.details["subtasks"]["scene"]["interval"]
    assert 0 <= low < (result.scores["scene"] or 0) < high <= 200


def test_the_report_stands_beside_perception() -> None:
    lines = every(1)
    result = scored(lines, [line["answer"] for line in lines])
    assert result.tables[2].rows[0] == ("this run", "2000.0")
    assert ("Janus-Pro-7B", "1567.1") in result.tables[2].rows
    assert [row[0] for row in result.tables[0].rows[:14]] == list(SUBTASKS)


# -- data ---------------------------------------------------------------------------------------

ASK = " Please answer yes or no."


def test_the_eval_tools_lists(tmp_path: Path) -> None:
    for subtask, suffix in (("OCR", "jpg"), ("code_reasoning", "png"), ("artwork", "jpg")):
        text = ""
        for n in range(2):
            name = f"{n:04d}.{suffix}"
            place = tmp_path / "images" / subtask / ("images" if subtask == "artwork" else "") / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(square(n + 10 * len(subtask)))
            text += f"{name}\tIs it {n}?{ASK}\tYes\n{name}\tIs it not {n}?{ASK}\tNo\n"
        (tmp_path / f"{subtask}.txt").write_text(text)
    found = MME().samples(tmp_path, False, tmp_path / "images")
    assert Counter(line["subtask"] for line in found.lines) == {"OCR": 4, "code_reasoning": 4, "artwork": 4}
    assert len(found.pictures) == 6
    ids = [line["id"] for line in found.lines if line["subtask"] == "OCR"]
    assert ids[:2] == ["OCR/0000: Is it 0?", "OCR/0000: Is it not 0?"]
    line = found.lines[0]
    assert MME().prompt(line).endswith(f"{ASK}\nAnswer the question using a single word or phrase.")
    assert len(MME().limited(found.lines, 1)) == 2  # a pair stays together
    assert list(MME().lacking(found.lines)) == [
        name for name in (*PERCEPTION, *COGNITION) if name not in ("OCR", "code_reasoning", "artwork")
    ]


def test_the_releases_folders(tmp_path: Path) -> None:
    folder = tmp_path / "existence"
    folder.mkdir()
    (folder / "000000006040.jpg").write_bytes(square())
    (folder / "000000006040.txt").write_text(f"Is there a train?{ASK}\tYes\nIs there a bed?{ASK}\tNo\n")
    lines = MME().samples(tmp_path, False).lines
    assert [(line["subtask"], line["image"], line["answer"]) for line in lines] == [
        ("existence", "000000006040", "yes"),
        ("existence", "000000006040", "no"),
    ]


def test_the_releases_questions_in_a_folder_of_their_own() -> None:
    """artwork/questions_answers_YN/10002.txt is about artwork/images/10002.jpg."""
    cells = {"text": "Is it?\tYes", "file": "10002", "folder": "questions_answers_YN"}
    folders = ("scene", "release", "artwork", "questions_answers_YN")
    line = MME().sample(Row("10002.txt, line 1", cells | {"folders": folders}, beside=lambda name: name))
    assert (line["subtask"], line["image"]) == ("artwork", "10002")
    assert line["pictures"] == ["artwork/images/10002.jpg"]


def test_vlmevalkits_rows_and_lmms_labs_parquet_give_the_same_ids(tmp_path: Path) -> None:
    image = fixture_scenes(1)[0].base64
    questions = [(f"Is it {label}?{ASK}", label) for label in ("Yes", "No")]
    rows = [
        {"index": n, "image": image, "question": question, "answer": answer, "category": "count",
         "image_path": "count/0001.png"}
        for n, (question, answer) in enumerate(questions)
    ]  # fmt: skip
    write_tsv(tmp_path / "MME.tsv", rows)
    held = [
        {"question_id": "count/0001.png", "image": {"bytes": square(), "path": None}, "question": question,
         "answer": answer, "category": "count"}
        for question, answer in questions
    ]  # fmt: skip
    parquet.write_table(pyarrow.Table.from_pylist(held), tmp_path / "test-00000-of-00001.parquet")
    one = MME().samples(tmp_path / "MME.tsv", False).lines
    other = MME().samples(tmp_path / "test-00000-of-00001.parquet", False).lines
    assert [line["id"] for line in one] == [line["id"] for line in other]
    with pytest.raises(ValueError, match=r"the id 'count/0001: Is it Yes\?' again"):
        MME().samples(tmp_path, False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0001.jpg\tIs it?\tYes\n", "OCR/0001 has 1 question, not a pair"),
        ("0001.jpg\tIs it?\tYes\n0001.jpg\tIs it so?\tNo\n0001.jpg\tIs it red?\tNo\n", "has 3 questions"),
        ("0001.jpg\tIs it?\tPerhaps\n", "line 1: the right answer must be yes or no, not 'Perhaps'"),
        ("0001.jpg\tIs it?\tYes\tYes, it is\n", "line 1: a fourth cell, someone's answer"),
        ("Read me\n", "line 1: 1 cells between tabs instead of image, question, answer"),
        ("0002.jpg\tIs it?\tYes\n", r"line 1: there is no picture OCR/0002\.jpg"),
        ("\tIs it?\tYes\n", "line 1: there is no image_path or question_id"),
        ("0001.jpg\t\tYes\n", "line 1: there is no question"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "OCR").mkdir()
    (tmp_path / "OCR" / "0001.jpg").write_bytes(square())
    (tmp_path / "OCR.txt").write_text(text)
    with pytest.raises(ValueError, match=words):
        MME().samples(tmp_path / "OCR.txt", False)


def test_a_subtask_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "smell.txt").write_text("0001.jpg\tIs it?\tYes\n")
    with pytest.raises(ValueError, match=r"line 1: the subtask must be one of existence, .*, not 'smell'"):
        MME().samples(tmp_path, False)


def test_the_fixture_has_pairs_of_every_subtask() -> None:
    lines = MME().samples(None, True).lines
    assert list(MME().lacking(lines)) == []
    pairs = Counter((line["subtask"], line["image"], line["answer"]) for line in lines)
    assert set(pairs.values()) == {1}
    assert Counter(line["answer"] for line in lines) == {"yes": 24, "no": 24}
    scenes = {f"{scene.number:04d}": scene.facts for scene in fixture_scenes()}
    for line in lines:
        facts = scenes[line["image"]]
        if line["subtask"] == "existence":
            name = line["question"].split(" in this")[0].split(" ", 3)[3]
            assert (name in facts.counts) == (line["answer"] == "yes")
        if line["subtask"] == "numerical_calculation":
            said = int(line["question"].split("plus one ")[1].split("?")[0])
            assert (said == facts.number + 1) == (line["answer"] == "yes")
    assert scored(lines, [line["answer"] for line in lines]).scores["overall"] == 2800
