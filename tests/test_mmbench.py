"""MMBench: how answers are read, beside VLMEvalKit and lmms-eval; rotations; scores; its data."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from janus.eval.benchmark import Item, Line, Scored
from janus.eval.choices import first_character, llava, lmms_eval, mended, vlmevalkit
from janus.eval.choosing import judge_prompt
from janus.eval.folder import Run
from janus.eval.mmbench import MMBench, rotations
from janus.eval.mmbench_scores import is_first
from janus.eval.runner import score
from janus.eval.tables import write_tsv
from tests.choice_cases import Table, base_rows, cases, circular_tables, fingerprint
from tests.oracle import Oracle, answered, picture

GOLDEN = json.loads((Path(__file__).parent / "golden" / "mmbench.json").read_text())
ABBREVIATIONS = {
    "coarse_perception": "CP",
    "finegrained_perception (instance-level)": "FP-S",
    "finegrained_perception (cross-instance)": "FP-C",
    "logic_reasoning": "LR",
    "relation_reasoning": "RR",
    "attribute_reasoning": "AR",
}
FOUR = {"A": "a dog", "B": "a cat", "C": "a bird", "D": "a fish"}


def lines_of(table: Table) -> list[Line]:
    return [
        {
            "id": str(row["index"]),
            "index": row["index"],
            "group": row["index"] % 1_000_000,
            "question": row["question"],
            "hint": "",
            "options": {letter: row[letter] for letter in "ABCD" if letter in row},
            "answer": row["answer"],
            "category": row["category"],
            "l2": row["l2-category"],
            "split": row["split"],
            "pictures": [],
        }
        for row in table
    ]


def question(index: int, answer: str, turn: int = 0) -> Line:
    row = {"index": index + turn * 1_000_000, "question": "Which?", **FOUR, "answer": answer}
    return lines_of([row | {"category": "ocr", "l2-category": "coarse_perception", "split": "dev"}])[0]


def turns(index: int = 5) -> list[Line]:
    """One question of which the first option is right, in all rotations."""
    return list(rotations([question(index, "A")]))


# -- reading answers ----------------------------------------------------------------------------


def test_vlmevalkit_and_lmms_eval_read_every_answer_so() -> None:
    asked = list(cases(len(GOLDEN["vlmevalkit"])))
    assert fingerprint(asked) == GOLDEN["inputs"]["answers"]
    assert len({answer for answer, _ in asked}) > 5000
    for (answer, options), one, other in zip(asked, GOLDEN["vlmevalkit"], GOLDEN["lmms_eval"], strict=True):
        assert (vlmevalkit(answer, options) or "-") == one, (answer, options)
        assert (lmms_eval(answer, options) or "-") == other, (answer, options)


LONG = "C is right, since what the picture shows has feathers"


@pytest.mark.parametrize(
    ("text", "official", "others", "fixed"),  # others: lmms-eval, LLaVA, the first character
    [
        ("B", "B", "BBB", "B"),
        ("b", None, "--B", "B"),
        ("(B)", "B", "B--", "B"),
        ("**B**", "B", "---", "B"),
        ("B.", "B", "B-B", "B"),
        ('"B"', None, "---", "B"),
        ("B\n", "B", "B-B", "B"),
        (LONG, None, "C-C", "C"),  # not among the last four words
        ("What has feathers is C", "C", "C--", "C"),
        ("A and B", None, "--A", None),
        ("I think A and B", None, "---", None),
        ("a cat", "B", "B-A", "B"),
        ("A cat", "A", "A-A", "B"),  # the article as a letter
        ("There is A cat", "A", "B--", "B"),
        ("The answer is a cat", "A", "B--", "B"),  # the first letter of a word
        ("The answer is definitely a bird", "D", "C--", "C"),
        ("The answer is C, but many would say B, D or A", "C", "---", "C"),
        ("category", None, "--C", None),  # no option is among these words
        ("a dogma", "A", "A-A", None),  # but one is in this one
        ("Z", "Z", "---", "Z"),
        ("Cannot determine the answer", "Z", "--C", "Z"),
        ("Failed to obtain answer via API.", None, "---", None),
        ("Failed to obtain answer via API. a fish", "D", "D--", None),
        ("", None, "---", None),
    ],
)
def test_where_the_rules_disagree(text: str, official: str | None, others: str, fixed: str | None) -> None:
    assert vlmevalkit(text, FOUR) == official
    assert "".join(rule(text, FOUR) or "-" for rule in (lmms_eval, llava, first_character)) == others
    assert mended(text, FOUR) == fixed


def test_logging_does_not_change_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """VLMEvalKit gives up on this answer if VERBOSE is set."""
    monkeypatch.setenv("VERBOSE", "1")
    assert vlmevalkit("I would choose A", FOUR) == "A"


@pytest.mark.parametrize(
    ("text", "options", "official", "fixed"),
    [
        ("red car", ("red", "red car"), None, "B"),  # an option within another
        ("a red car door", ("red", "red car", "red car door"), None, "C"),
        ("30", ("3", "30"), None, "B"),
        ("It shows 12 birds, I would say", ("1", "2"), None, None),
        ("3.5", ("3", "5"), None, None),
        ("B", ("B", "A"), "B", "B"),  # the letter, not the text
        ("E", ("one", "two", "three", "four", "five"), "E", "E"),
        ("The answer is e.", ("one", "two", "three", "four", "five"), None, "E"),
        ("I think D", tuple("abcdefghi"), None, "D"),  # the ninth letter as the pronoun
        ("nan", ("a", "n"), None, None),
        ("Option A is a good one for this", ("x", "y"), None, "A"),
    ],
)
def test_options_of_other_questions(
    text: str, options: tuple[str, ...], official: str | None, fixed: str | None
) -> None:
    lettered = dict(zip("ABCDEFGHI", options, strict=False))
    assert (vlmevalkit(text, lettered), mended(text, lettered)) == (official, fixed)


def test_lmms_eval_takes_missing_options_for_the_text_nan() -> None:
    assert lmms_eval("a banana", {"A": "apple", "B": "pear"}) is None  # C and D are both "nan"
    assert lmms_eval("a banana", {"A": "apple", "B": "pear", "C": "plum"}) == "D"
    assert lmms_eval("E", {"A": "apple", "B": "pear"}) == "E"


@given(
    st.sampled_from("ABCD"),
    st.sampled_from(
        ["{}", "({})", "{}.", "**{}**", "[{}]", "{}:", "\n{}\n", "The answer is {}.", "It is ({})"]
    ),
)
def test_a_letter_by_itself_is_read_alike_in_both_modes(letter: str, form: str) -> None:
    text = form.format(letter)
    assert vlmevalkit(text, FOUR) == mended(text, FOUR) == letter


@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=6), min_size=2, max_size=9))
def test_every_rule_gives_a_letter_or_nothing(text: str, texts: list[str]) -> None:
    options = dict(zip("ABCDEFGHI", texts, strict=False))
    for rule in (vlmevalkit, mended, llava, first_character):
        assert rule(text, options) in {None, "Z", *options}
    assert lmms_eval(text, options) in {None, *"ABCDE"}


# -- rotations ----------------------------------------------------------------------------------


def test_rotations_are_those_of_vlmevalkit() -> None:
    rows = base_rows()
    assert fingerprint(rows) == GOLDEN["inputs"]["rows"]
    lines: list[Line] = [
        {
            "index": row["index"],
            "options": {letter: row[letter] for letter in "ABCD" if row[letter]},
            "answer": row["answer"],
        }
        for row in rows
    ]
    turned = sorted([line["index"], line["options"], line["answer"]] for line in rotations(lines))
    assert len(turned) > len(rows)
    assert fingerprint(turned) == GOLDEN["rotated"]


@given(st.lists(st.text("xyz ", min_size=1, max_size=4), min_size=2, max_size=4, unique=True), st.data())
def test_the_right_text_is_the_same_in_every_rotation(texts: list[str], data: st.DataObject) -> None:
    options = dict(zip("ABCD", texts, strict=False))
    answer = data.draw(st.sampled_from(list(options)))
    turned = rotations([{"index": 3, "options": options, "answer": answer}])
    assert [line["index"] for line in turned] == [3 + turn * 1_000_000 for turn in range(len(texts))]
    assert {line["options"][line["answer"]] for line in turned} == {options[answer]}
    assert sorted(line["answer"] for line in turned) == sorted(options)


def test_options_that_speak_of_letters_are_not_rotated() -> None:
    for text in ("A and B", "B", "a, b: A, B"):
        line = {"index": 3, "options": {"A": "a dog", "B": text}, "answer": "A"}
        assert rotations([line]) == (line,)
    assert len(rotations([{"index": 3, "options": {"A": "vitamin A", "B": "none"}, "answer": "A"}])) == 2


# -- scores -------------------------------------------------------------------------------------


def means(lines: Sequence[Line]) -> dict[str, float]:
    """As VLMEvalKit's table has them."""
    found: dict[str, list[float]] = {"Overall": [line["score"] for line in lines]}
    for line in lines:
        for name in (ABBREVIATIONS[line["tags"]["l2"]], line["tags"]["category"]):
            found.setdefault(name, []).append(line["score"])
    return {name: round(fmean(values), 6) for name, values in found.items()}


def test_vlmevalkit_gives_the_same_circular_and_plain_accuracy() -> None:
    tables = list(circular_tables(len(GOLDEN["circular"])))
    assert fingerprint(tables) == GOLDEN["inputs"]["tables"]
    for table, golden in zip(tables, GOLDEN["circular"], strict=True):
        lines = lines_of(table)
        answers = answered(lines, [row["prediction"] for row in table])
        scored = MMBench().score(answers)
        rows = []
        for place, (line, row) in enumerate(zip(lines, table, strict=True)):
            right = vlmevalkit(row["prediction"], line["options"]) == line["answer"]
            tags = {name: line[name] for name in ("l2", "category", "split")}
            rows.append({"item": Item(place, 0).key, **line, "tags": tags, "score": float(right)})
        first = [row for row in rows if is_first(row, "official")]
        found = {}
        for kind, some in (("circular", scored.verdicts), ("vanilla_0", first), ("vanilla_all", rows)):
            for split in ("dev", "test"):
                if of := [line for line in some if line["tags"]["split"] == split]:
                    found[f"{kind}_{split}"] = means(of)
        assert found == golden
        assert scored.scores["overall"] == pytest.approx(fmean(line["score"] for line in scored.verdicts))
        assert scored.scores["plain"] == pytest.approx(fmean(row["score"] for row in first))
        assert scored.scores["plain_all"] == pytest.approx(fmean(row["score"] for row in rows))
        for ability, name in ABBREVIATIONS.items():
            for split in ("dev", "test"):
                assert (ability in scored.scores) or name not in golden.get(f"circular_{split}", {})


def test_the_rotation_with_the_index_of_a_million_is_a_first_order_in_vlmevalkit() -> None:
    lines = turns(0)
    answers = answered(lines, ["A", "A", "A", "A"])  # right in the first order alone
    assert [line["answer"] for line in lines] == ["A", "D", "C", "B"]
    assert MMBench("official").score(answers).scores["plain"] == 0.5
    assert MMBench("fixed").score(answers).scores["plain"] == 1.0


def test_a_question_is_right_if_all_its_rotations_are() -> None:
    lines = [*turns(5), *turns(6)]
    said = [line["answer"] for line in lines]
    assert MMBench().score(answered(lines, said)).scores["overall"] == 1
    said[6] = "B"
    scored = MMBench().score(answered(lines, said))
    assert scored.scores == {"overall": 0.5, "plain": 1.0, "plain_all": 7 / 8, "coarse_perception": 0.5}
    assert (scored.counts.unit, scored.counts.expected, scored.counts.scored) == ("question", 2, 2)
    right, wrong = scored.verdicts
    assert (right["score"], right["reason"], right["rows_right"]) == (1.0, "", 4)
    assert wrong["reason"] == "rotation 2 of 4: says B, right is C"
    assert (wrong["item"], wrong["id"], wrong["answer"]) == ("00004/00000", "6", "B")
    assert "A. a bird\nB. a fish\nC. a dog" in wrong["prompt"]
    assert scored.details["circular"]["category"]["ocr"]["of"] == 2


def test_what_cannot_be_read_is_wrong_and_counted_and_nothing_is_guessed() -> None:
    lines = turns()
    scored = MMBench().score(answered(lines, ["A", "D", "C", "hm"]))
    assert scored.scores["overall"] == 0
    assert scored.counts.parsed == 0
    assert scored.counts.complete
    assert scored.details["read"] == {"by_rule": 3, "by_judge": 0, "unread": 1}
    assert scored.verdicts[0]["reason"] == "rotation 3 of 4: cannot be read, right is B"


def test_a_missing_answer_leaves_no_overall() -> None:
    lines = [*turns(5), *turns(6)]
    said: list[str | None] = [line["answer"] for line in lines]
    said[7] = None
    scored = MMBench().score(answered(lines, said))
    assert (
        scored.scores["overall"] is scored.scores["plain_all"] is scored.scores["coarse_perception"] is None
    )
    assert scored.scores["plain"] == 1
    assert (scored.counts.expected, scored.counts.answered, scored.counts.scored) == (2, 1, 1)
    said[0] = None
    assert MMBench().score(answered(lines, said)).scores["plain"] is None


def test_a_table_shows_what_other_rules_read() -> None:
    lines = [question(5, "B"), question(6, "B")]
    scored = MMBench().score(answered(lines, ["A cat", "b"]))
    rows = {row[0]: (row[2], row[4]) for row in scored.tables[2].rows}
    assert rows["VLMEvalKit (official)"] == ("0.0", "1")
    assert rows["mended (fixed)"] == ("100.0", "0")
    assert rows["lmms-eval on SEED-Bench"] == ("50.0", "0")
    assert scored.caveat.endswith("no rotations, so that this is plain accuracy")


# -- a judge ------------------------------------------------------------------------------------


def test_the_judges_prompt_is_the_published_one() -> None:
    prompt = judge_prompt("What is it", {"A": "a cat", "B": "a dog"}, "It might be a kitten.")
    assert hashlib.sha256(prompt.encode()).hexdigest() == GOLDEN["prompt"]


def test_a_judge_is_asked_about_what_no_rule_reads_and_nothing_else(tmp_path: Path) -> None:
    lines = turns()
    judge = Oracle("B.")
    bench = MMBench(judge=judge)
    bench.prepare()
    said = ["A", "D", "C", "the one with a wet nose"]
    scored = bench.score(answered(lines, said, tmp_path))
    [request] = judge.asked
    assert request.prompt == judge_prompt("Which?", lines[3]["options"], said[3])
    assert scored.scores["overall"] == 1
    assert scored.details["read"] == {"by_rule": 3, "by_judge": 1, "unread": 0}
    assert "1 answers were read by an oracle" in scored.caveat
    assert MMBench(judge=judge).score(answered(lines, said, tmp_path)).scores["overall"] == 1
    assert len(judge.asked) == 1  # its reply was kept


def test_after_three_unreadable_replies_an_answer_is_wrong_not_guessed(tmp_path: Path) -> None:
    lines = [question(5, "A")]
    judge = Oracle("well", "perhaps", "who knows", "A")
    scored = MMBench(judge=judge).score(answered(lines, ["hm"], tmp_path))
    assert [request.number for request in judge.asked] == [0, 1, 2]
    assert (scored.scores["overall"], scored.counts.parsed, scored.counts.scored) == (0, 0, 1)
    assert scored.verdicts[0]["reason"] == "cannot be read (a judge was asked), right is A"
    patient = Oracle("well", "A")
    patient.title = "another oracle"
    second = MMBench(judge=patient).score(answered(lines, ["hm"], tmp_path))
    assert second.scores["overall"] == 1


def test_where_the_judge_fails_there_is_no_verdict(tmp_path: Path) -> None:
    scored = MMBench(judge=Oracle(None)).score(answered([question(5, "A")], ["hm"], tmp_path))
    assert scored.scores["overall"] is None
    assert scored.counts.scored == 0
    assert scored.notes[-1] == "1 questions to an oracle have no reply: no connection."


def test_a_judge_must_follow_instructions() -> None:
    judge = Oracle("A")
    judge.chats = False
    with pytest.raises(ValueError, match="an oracle follows no instructions"):
        MMBench(judge=judge).prepare()


# -- data ---------------------------------------------------------------------------------------


def row(index: int, **more: Any) -> dict[str, Any]:
    cells = {"index": index, "question": "Which?", "hint": "", **FOUR, "answer": "A", "category": "ocr"}
    cells |= {"l2-category": "coarse_perception", "split": "dev", "source": "-"}
    return cells | {"image": base64.b64encode(picture(index % 200)).decode(), **more}


def rotated(index: int) -> list[dict[str, Any]]:
    """As VLMEvalKit's file has them: rotations name the row with the picture."""
    lines = rotations([{"index": index, "options": FOUR, "answer": "A"}])
    every = [row(one["index"], **one["options"], answer=one["answer"], image=str(index)) for one in lines]
    return [row(index), *every[1:]]


def test_vlmevalkits_file_with_rotations_that_name_their_picture(tmp_path: Path) -> None:
    write_tsv(tmp_path / "MMBench_DEV_EN.tsv", [*rotated(5), *rotated(6)])
    samples = MMBench().samples(tmp_path, False)
    assert [line["group"] for line in samples.lines] == [5] * 4 + [6] * 4
    assert len(samples.pictures) == 2
    assert len({line["pictures"][0] for line in samples.lines[:4]}) == 1
    assert [line["answer"] for line in samples.lines[:4]] == ["A", "D", "C", "B"]
    assert not samples.published


def test_a_file_of_first_orders_gets_its_rotations(tmp_path: Path) -> None:
    write_tsv(tmp_path / "x.tsv", [row(5, hint="look"), row(6, C="", D="")])
    samples = MMBench().samples(tmp_path / "x.tsv", False)
    assert [line["id"] for line in samples.lines] == ["5", "6", "1000005", "1000006", "2000005", "3000005"]
    assert samples.lines[3]["options"] == {"A": "a cat", "B": "a dog"}
    assert {line["hint"] for line in samples.lines if line["group"] == 5} == {"look"}
    bench = MMBench()
    assert "Hint: look" in bench.prompt(samples.lines[0])
    assert [line["id"] for line in bench.limited(samples.lines, 1)] == ["5", "1000005", "2000005", "3000005"]
    assert len(bench.limited(samples.lines, 2)) == 6


def test_the_hubs_file_has_nan_for_what_is_missing(tmp_path: Path) -> None:
    rows = []
    for one in [
        *rotated(5),
        row(6, C="", D=""),
        row(1_000_006, A="a cat", B="a dog", C="", D="", answer="B"),
    ]:
        cells = {name: "nan" if cell == "" else cell for name, cell in one.items() if name != "l2-category"}
        cells |= {"L2-category": "coarse_perception", "comment": "nan"}
        rows.append(cells | {"image": {"bytes": picture(one["index"] % 1_000_000), "path": None}})
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "dev-00000-of-00001.parquet")
    samples = MMBench().samples(tmp_path, False)
    assert len(samples.lines) == 6
    assert samples.lines[4]["options"] == {"A": "a dog", "B": "a cat"}
    assert samples.lines[0]["hint"] == ""
    assert {line["l2"] for line in samples.lines} == {"coarse_perception"}
    assert "Hint" not in MMBench().prompt(samples.lines[0])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (rotated(5)[:3], "question 5 has 3 of its 4 rotations"),
        (rotated(5)[1:], "row 1: the image is '5', neither base64 nor the index of a row with one"),
        ([row(1_000_005)], "question 5 has rotations, but not its first order"),
        ([row(5), row(5)], "row 2: the id '5' again, which x.tsv, row 1 has"),
        ([row(5, answer="")], "row 1: there is no answer; those of test splits are not published"),
        ([row(5, answer="AB")], "row 1: the answer must be the letter of an option, not 'AB'"),
        ([row(5, question=" ")], "row 1: there is no question"),
        ([row(5, B="", C="", D="")], "row 1: there must be two options at least, not 1"),
        ([row(5) | {"index": "five"}], "row 1: index must be a whole number from 0, not 'five'"),
        ([row(5, image="")], "row 1: no picture"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(tmp_path: Path, rows: list[dict[str, Any]], words: str) -> None:
    write_tsv(tmp_path / "x.tsv", rows)
    with pytest.raises(ValueError, match=words):
        MMBench().samples(tmp_path / "x.tsv", False)


def test_a_right_option_whose_text_was_lost_is_told(tmp_path: Path) -> None:
    """As "NA" is, which pandas takes for a missing cell; then no answer can be right."""
    write_tsv(tmp_path / "x.tsv", [row(5, A=""), row(6)])
    lines = MMBench().samples(tmp_path / "x.tsv", False).lines
    assert Counter(line["group"] for line in lines) == {5: 1, 6: 4}
    scored = MMBench().score(answered(lines, [line["answer"] for line in lines]))
    assert scored.scores["overall"] == 0.5
    assert scored.notes[-1].startswith("The right option of 1 rows has no text in the data")


def test_the_fixture_is_in_the_official_form_and_can_be_scored_whole(tmp_path: Path) -> None:
    bench = MMBench()
    samples = bench.samples(None, True)
    groups = Counter(line["group"] for line in samples.lines)
    assert len(groups) == 6
    assert set(groups.values()) == {2, 3, 4}
    assert len({line["l2"] for line in samples.lines}) == 2
    assert samples.lines[:6] == tuple(line for line in samples.lines if line["index"] == line["group"])
    again = rotations(samples.lines[:6])
    assert {line["id"]: (line["options"], line["answer"]) for line in again} == {
        line["id"]: (line["options"], line["answer"]) for line in samples.lines
    }
    plan = {
        "benchmark": "mmbench",
        "samples": {"title": samples.title, "count": 21, "used": 21, "published": False},
        "settings": {"each": 1, "model": "-"},
        "versions": {},
    }
    run = Run.begin(tmp_path, plan, samples.lines, samples.pictures)
    run.journal().add(
        [
            {"item": Item(place, 0).key, "answer": f"({line['answer']})"}
            for place, line in enumerate(samples.lines)
        ]
    )
    results, scored = score(bench, tmp_path)
    assert (results["complete"], results["scores"]["overall"], results["expected"]) == (True, 1, 6)
    assert scored.caveat == "not the published data (the package's fixture)"
    assert json.loads((tmp_path / "results.json").read_text())["circular"]["of"] == 6


def test_both_modes_score_plain_letters_alike() -> None:
    lines = MMBench().samples(None, True).lines

    def of(mode: Any) -> Scored:
        return MMBench(mode).score(answered(lines, [line["answer"] for line in lines]))

    assert of("official").scores == of("fixed").scores
    assert of("fixed").caveat.endswith("by mended rules, published numbers are by VLMEvalKit's")
