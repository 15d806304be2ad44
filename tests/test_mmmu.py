"""MMMU: how answers are read, beside the official scorer and two harnesses; scores; its data."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from janus.eval.benchmark import Item, Line
from janus.eval.folder import Run
from janus.eval.mmmu import MMMU
from janus.eval.mmmu_rules import (
    golds,
    lmms_eval_choice,
    lmms_eval_open,
    mended_choice,
    mended_equal,
    mended_open,
    official_choice,
    official_equal,
    official_open,
    vlmevalkit_open,
)
from janus.eval.mmmu_scores import DOMAINS
from janus.eval.runner import score
from janus.eval.tables import write_tsv
from tests.choice_cases import fingerprint
from tests.mmmu_cases import choices, opens, tables
from tests.oracle import Oracle, answered, picture

GOLDEN = json.loads((Path(__file__).parent / "golden" / "mmmu.json").read_text())
FOUR = {"A": "a dog", "B": "a cat", "C": "a bird", "D": "a fish"}
DOMAIN = {subject: domain for domain, subjects in DOMAINS.items() for subject in subjects}


def bits(text: str) -> str:
    return f"{int(text, 16):b}"[1:]


def official(gold: str | Sequence[str], answer: str) -> bool:
    return official_equal(gold, official_open(answer))


def mended(gold: str | Sequence[str], answer: str) -> bool:
    return mended_equal(gold, mended_open(answer))


def line(name: str, answer: str | list[str], options: dict[str, str] | None = None) -> Line:
    subject = "_".join(name.split("_")[1:-1])
    asked = {"id": name, "question": "Which?", "options": options or {}, "answer": answer}
    kind = "multiple-choice" if options else "open"
    return asked | {"type": kind, "subject": subject, "domain": DOMAIN[subject], "pictures": []}


# -- multiple choice ----------------------------------------------------------------------------


def test_the_official_scorer_and_lmms_eval_read_every_choice_so() -> None:
    asked = list(choices(len(GOLDEN["choice"])))
    assert fingerprint(asked) == GOLDEN["inputs"]["choices"]
    for (answer, options), one, other in zip(
        asked, GOLDEN["choice"], GOLDEN["lmms_eval_choice"], strict=True
    ):
        assert (official_choice(answer, options) or "-") == one, (answer, options)
        assert (lmms_eval_choice(answer, options) or "-") == other, (answer, options)


@pytest.mark.parametrize(
    ("text", "official", "lmms_eval", "fixed"),
    [
        ("B", "B", "B", "B"),
        ("B.", "B", "B", "B"),
        ("(B) a cat", "B", "B", "B"),
        ("B) a cat", None, None, "B"),  # where the official scorer guesses
        ("B. a cat", None, "B", "B"),
        ("**B**", None, None, "B"),
        ("b", None, None, "B"),
        ("B\n", None, None, "B"),
        ("a cat", None, None, "B"),  # texts count in longer answers only
        ("What this shows is clearly a cat", "B", "B", "B"),
        ("Not a cat, I would say a bird", "C", "C", "C"),  # the last one
        ("The answer is B. A is wrong", "A", "A", "B"),  # "B." is not between spaces
        ("(A) looks right, but it is (D)", "D", "D", "D"),
        ("It is A cat", "A", "A", "B"),
        ("SCUBA gear", None, "A", None),  # the end of a word as a letter
        ("", None, None, None),
    ],
)
def test_where_the_rules_for_choices_disagree(
    text: str, official: str | None, lmms_eval: str | None, fixed: str | None
) -> None:
    assert official_choice(text, FOUR) == official
    assert lmms_eval_choice(text, FOUR) == lmms_eval
    assert mended_choice(text, FOUR) == fixed


# -- open questions -----------------------------------------------------------------------------


def test_the_official_scorer_and_vlmevalkit_judge_every_open_answer_so() -> None:
    asked = list(opens(len(GOLDEN["open"])))
    assert fingerprint(asked) == GOLDEN["inputs"]["opens"]
    of = zip(asked, GOLDEN["open"], bits(GOLDEN["equal"]), bits(GOLDEN["vlmevalkit_open"]), strict=True)
    for (answer, gold), digit, equal, theirs in of:
        read = official_open(answer)
        assert hashlib.sha256(repr(sorted(map(repr, read))).encode()).hexdigest()[0] == digit, answer
        assert official_equal(gold, read) == (equal == "1"), (answer, gold)
        assert vlmevalkit_open(answer, gold) == (theirs == "1"), (answer, gold)


def test_lmms_eval_gives_no_open_answer_any_points() -> None:
    assert GOLDEN["lmms_eval_open_right"] == 0
    assert not any(lmms_eval_open(answer, gold) for answer, gold in opens(2000))
    assert not lmms_eval_open("24", "24")


@pytest.mark.parametrize(
    ("gold", "answer", "officially", "fixed"),
    [
        # numbers are rounded to two decimals
        ("0.9965", "1.00", True, False),
        ("0.286", "0.29", True, False),
        ("0.004", "0.001", True, False),
        ("0.963", "0.963", True, True),
        ("24.32", "24.321", True, True),
        ("24", "24.3", False, False),
        # a number before a comma is lost, or cut
        ("24", "24, I think", False, True),
        ("24", "The result is 24.5, more or less", True, False),
        ("24.5", "The result is 24.5, more or less", False, True),
        ("0", "It costs 2,000,000", True, False),
        ("2000000", "It costs 2,000,000", True, True),
        ("2000000", "2 x 10^6", False, True),
        ("2000000", "2e6", True, True),
        ("24", "24kg", False, True),
        ("3", "10-3", False, True),
        ("-120", "-120 degrees", True, True),
        ("-120", "−120", False, True),
        # numbers and texts
        ("24", "240", False, False),
        ("1/64", "11/64", True, False),
        ("1/64", "0.015625", False, True),
        (["24/7", "3.429"], "3.43", True, True),
        (["24/7", "3.429"], "24/7 hours", True, True),
        (["$MgS$", "MgS"], "It is MgS", True, True),
        (["Tampa", "Florida"], "florida", True, True),
        # texts as parts of words, letters
        ("no", "unknown", True, False),
        ("Transformation", "a transformation.", True, True),
        ("C", "C", True, True),
        ("C", "(C)", False, True),
        ("C", "basic acid", True, False),
        ("A", "a dog", True, False),
        ("A", "Point A shows it", True, True),
        ("C", "B and C", True, False),
        # sentences end nowhere, once all letters are small
        ("24", "The answer is 24. So it is a lot", False, True),
        ("24", "This is 24", True, True),
        ("embryonic", "", False, False),
    ],
)
def test_where_the_modes_disagree_about_open_answers(
    gold: str | list[str], answer: str, officially: bool, fixed: bool
) -> None:
    assert official(gold, answer) == officially
    assert mended(gold, answer) == fixed


@pytest.mark.parametrize(
    ("gold", "answer", "theirs"),
    [
        ("24", "240", True),  # a choice between the gold answer and "Other Answers", by parts of the text
        ("2,000,000", "2000000", False),
        (["24/7", "3.429"], "3.429", False),
        ("C", "C", False),
        ("B", "B", True),
        ("A", "A", True),
        ("embryonic", "It is embryonic", True),
        ("24", "A", True),  # the letter of the gold answer
    ],
)
def test_vlmevalkit_makes_open_questions_a_choice(gold: str | list[str], answer: str, theirs: bool) -> None:
    assert vlmevalkit_open(answer, gold) == theirs


@given(
    st.integers(-(10**7), 10**7), st.sampled_from(["{}", "It is {}.", "x = {}", "The answer is {:,}", "{} m"])
)
def test_whole_numbers_are_right_in_both_modes_however_they_are_said(number: int, form: str) -> None:
    said = form.format(number)
    assert mended(str(number), said)
    assert official(str(number), said)
    assert not mended(str(number + 1), said)


@given(st.text(max_size=60))
def test_any_answer_can_be_read(text: str) -> None:
    assert official_open(text)
    read = mended_open(text)
    assert read
    for gold in ("24", "C", "no", ["24/7", "3.429"]):
        assert mended_equal(gold, read) in (True, False)


# -- scores -------------------------------------------------------------------------------------


def test_the_official_programs_give_the_same_scores() -> None:
    """`main_parse_and_eval.py`, then `main_eval_only.py`, with no option where they would guess."""
    every = list(tables(len(GOLDEN["whole"])))
    assert fingerprint(every) == GOLDEN["inputs"]["tables"]
    for table, golden in zip(every, GOLDEN["whole"], strict=True):
        lines = [line(row["id"], row["answer"], row.get("options")) for row in table]
        scored = MMMU().score(answered(lines, [row["response"] for row in table]))
        found = {"Overall": [len(lines), scored.scores["overall"]]}
        for name, one in scored.details["domain"].items():
            found[f"Overall-{name}"] = [one["of"], one["score"]]
            assert scored.scores[name] == one["score"]
        found |= {name: [one["of"], one["score"]] for name, one in scored.details["subject"].items()}
        assert {name: [of, round(one or 0, 3)] for name, (of, one) in found.items()} == golden


def test_choices_and_open_questions_apart_and_what_guessing_would_add() -> None:
    lines = [
        line("validation_Math_1", "B", FOUR),
        line("validation_Math_2", "B", {"A": "1", "B": "2"}),
        line("validation_Art_1", "C", FOUR),
        line("validation_Art_2", "24"),
    ]
    scored = MMMU().score(answered(lines, ["hm", "hm", "C", "25"]))
    assert scored.scores == {
        "overall": 0.25,
        "multiple-choice": pytest.approx(1 / 3),
        "open": 0,
        "Art and Design": 0.5,
        "Science": 0,
    }
    assert scored.details["guessing"] == {"unread": 2, "right": 0.75, "overall": 0.4375}
    assert scored.notes == [
        "The official scorer takes an option at random for each of the 2 choices that it cannot read; that "
        "would add 0.8 right answers on average, and make 43.8 of the score."
    ]
    assert (scored.counts.parsed, scored.counts.scored) == (2, 4)
    assert [one["reason"] for one in scored.verdicts] == [
        "cannot be read, right is B",
        "cannot be read, right is B",
        "",
        "expected 24",
    ]
    assert MMMU().score(answered(lines, ["hm", "hm", "C", "25"])).scores == scored.scores
    assert MMMU("fixed").score(answered(lines, ["hm", "hm", "C", "25"])).notes == []


def test_missing_answers_leave_no_score_of_what_they_belong_to() -> None:
    lines = [line("validation_Math_1", "B", FOUR), line("validation_Art_1", "24")]
    scored = MMMU().score(answered(lines, ["B", None]))
    assert scored.scores["overall"] is scored.scores["open"] is scored.scores["Art and Design"] is None
    assert (scored.scores["multiple-choice"], scored.scores["Science"]) == (1, 1)
    assert scored.details["guessing"]["overall"] is None
    assert not scored.counts.complete


def test_a_table_shows_what_other_rules_read() -> None:
    lines = [line("validation_Math_1", "B", FOUR), line("validation_Art_1", "24")]
    rows = {row[0]: row[1:] for row in MMMU().score(answered(lines, ["**B**", "24"])).tables[2].rows}
    assert rows["MMMU's eval_utils.py (official)"] == ["50.0", "0.0", "100.0", "1"]
    assert rows["mended (fixed)"] == ["100.0", "100.0", "100.0", "0"]
    assert rows["VLMEvalKit"] == ["100.0", "100.0", "100.0", "0"]
    assert rows["lmms-eval"] == ["0.0", "0.0", "0.0", "1"]


def test_a_judge_reads_choices_that_the_official_scorer_would_guess(tmp_path: Path) -> None:
    judge = Oracle("B")
    lines = [line("validation_Math_1", "B", FOUR), line("validation_Art_1", "24")]
    scored = MMMU(judge=judge).score(answered(lines, ["**B**", "unread"], tmp_path))
    assert scored.scores["multiple-choice"] == 1
    assert len(judge.asked) == 1
    assert scored.details["guessing"]["unread"] == 0
    assert "1 answers were read by an oracle" in scored.caveat


# -- data ---------------------------------------------------------------------------------------


def hub(folder: Path, subject: str, rows: list[dict[str, Any]], split: str = "validation") -> None:
    """A file as the hub has it: a folder for each subject, pictures in seven columns."""
    made = []
    for number, one in enumerate(rows, 1):
        cells = {"id": f"{split}_{subject}_{number}", "question": "<image 1> Which?", "explanation": "-"}
        cells |= {"options": "['a dog', \"a cat's\"]", "answer": "B", "question_type": "multiple-choice"}
        images: dict[str, Any] = {f"image_{i}": None for i in range(1, 8)}
        images["image_1"] = {"bytes": picture(number), "path": None}
        made.append(cells | images | one)
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    columns = [(name, kind if name.startswith("image_") else pyarrow.string()) for name in made[0]]
    (folder / subject).mkdir(parents=True, exist_ok=True)
    parquet.write_table(
        pyarrow.Table.from_pylist(made, pyarrow.schema(columns)),
        folder / subject / f"{split}-00000-of-00001.parquet",
    )


def test_the_hubs_folders(tmp_path: Path) -> None:
    two = {"bytes": picture(99), "path": None}
    hub(
        tmp_path, "Art_Theory", [{}, {"image_2": two, "options": "['<image 1>', '<image 2>']", "answer": "A"}]
    )
    hub(tmp_path, "Math", [{"options": "[]", "question_type": "open", "answer": "['24/7', '3.429']"}])
    hub(tmp_path, "Math", [{}], "dev")
    samples = MMMU().samples(tmp_path, False)
    one, other, third = samples.lines
    assert (one["id"], one["subject"], one["domain"]) == (
        "validation_Art_Theory_1",
        "Art_Theory",
        "Art and Design",
    )
    assert one["options"] == {"A": "a dog", "B": "a cat's"}
    assert [len(line["pictures"]) for line in samples.lines] == [1, 2, 1]
    assert (third["type"], third["answer"], third["options"]) == ("open", ["24/7", "3.429"], {})
    assert MMMU().prompt(other).startswith("<image 1> Which?\nA. <image 1>\nB. <image 2>\n")
    assert MMMU().prompt(third) == "<image 1> Which?\nAnswer the question directly."
    scored = MMMU().score(answered(samples.lines, ["B", "B", "3.43"]))
    assert scored.scores["overall"] == pytest.approx(2 / 3)


def test_the_official_answers_beside_the_questions(tmp_path: Path) -> None:
    hub(tmp_path, "Math", [{}, {}])
    gold = {
        "validation_Math_1": {"question_type": "multiple-choice", "ground_truth": "A"},
        "validation_Math_2": {"question_type": "short-answer", "ground_truth": ["one", "two"]},
        "validation_Art_1": {"question_type": "multiple-choice", "ground_truth": "A"},
    }
    (tmp_path / "answer_dict_val.json").write_text(json.dumps(gold))
    one, other = MMMU().samples(tmp_path, False).lines
    assert (one["answer"], other["type"], other["answer"]) == ("A", "open", ["one", "two"])
    del gold["validation_Math_2"]
    (tmp_path / "answer_dict_val.json").write_text(json.dumps(gold))
    with pytest.raises(ValueError, match=r"answer_dict_val\.json has no answer to 'validation_Math_2'"):
        MMMU().samples(tmp_path, False)


def cells(number: int, **more: Any) -> dict[str, Any]:
    """A row as VLMEvalKit has it."""
    found = {"index": number, "id": f"validation_Math_{number}", "question": "Which?", **FOUR, "answer": "B"}
    found |= {"category": "Math", "l2-category": "Science", "split": "validation"}
    return found | {"image": base64.b64encode(picture(number)).decode()} | more


def test_vlmevalkits_file_of_two_splits(tmp_path: Path) -> None:
    two = str([base64.b64encode(picture(shade)).decode() for shade in (7, 8)])
    none = dict.fromkeys("ABCD", "")
    rows = [
        cells(1, split="dev", id="dev_Math_1"),
        cells(2, image=two),
        cells(3, **none, answer="0.9965"),
        cells(4, id="", category="Clinical_Medicine"),
    ]
    write_tsv(tmp_path / "MMMU_DEV_VAL.tsv", rows)
    lines = MMMU().samples(tmp_path, False).lines
    assert [one["id"] for one in lines] == ["validation_Math_2", "validation_Math_3", "4"]
    assert [len(one["pictures"]) for one in lines] == [2, 1, 1]
    assert [one["type"] for one in lines] == ["multiple-choice", "open", "multiple-choice"]
    assert lines[2]["domain"] == "Health and Medicine"
    assert list(MMMU().lacking(lines))[:2] == ["Art", "Art_Theory"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"id": "validation_Taste_1", "category": "Taste"}, "names one of the subjects"),
        ({"answer": ""}, "there is no answer"),
        ({"answer": "E or F"}, "the answer must be the letter of an option, not 'E or F'"),
        ({"question": ""}, "there is no question"),
        (dict.fromkeys("BCD", ""), "there must be two options at least, not 1"),
        ({**dict.fromkeys("ABCD", ""), "answer": ""}, "there is no answer"),
        ({"split": "test"}, "has no questions of the validation split"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(tmp_path: Path, more: dict[str, Any], words: str) -> None:
    write_tsv(tmp_path / "x.tsv", [cells(1, **more)])
    with pytest.raises(ValueError, match=words):
        MMMU().samples(tmp_path / "x.tsv", False)


def test_options_that_are_no_list(tmp_path: Path) -> None:
    hub(tmp_path, "Math", [{"options": "a dog, a cat"}])
    with pytest.raises(ValueError, match="options must be a list of texts, not 'a dog, a cat'"):
        MMMU().samples(tmp_path, False)


def test_the_fixture_is_in_the_official_form_and_can_be_scored_whole(tmp_path: Path) -> None:
    bench = MMMU()
    samples = bench.samples(None, True)
    assert len(samples.lines) == 10
    kinds = [one["type"] for one in samples.lines]
    assert (kinds.count("open"), kinds.count("multiple-choice")) == (4, 6)
    assert max(len(one["pictures"]) for one in samples.lines) == 2
    assert len({one["domain"] for one in samples.lines}) == 3
    plan = {
        "benchmark": "mmmu",
        "samples": {"title": samples.title, "count": 10, "used": 10, "published": False},
        "settings": {"each": 1, "model": "-"},
        "versions": {},
    }
    run = Run.begin(tmp_path, plan, samples.lines, samples.pictures)
    run.journal().add(
        [
            {"item": Item(place, 0).key, "answer": golds(one["answer"])[-1]}
            for place, one in enumerate(samples.lines)
        ]
    )
    results, scored = score(bench, tmp_path)
    assert (results["complete"], results["scores"]["overall"]) == (True, 1)
    assert scored.caveat == "not the published data (the package's fixture)"
