"""MM-Vet's rules, its data, and what becomes of judges' replies."""

from __future__ import annotations

import base64
import hashlib
import json
import string
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from janus.eval.benchmark import Answers, Item, Line, Mode
from janus.eval.fixtures import fixture_scenes
from janus.eval.judges import Reply, Request, Spent
from janus.eval.mmvet import MMVet
from janus.eval.mmvet_rules import (
    CLOSING,
    FIXED,
    LMMS_EVAL,
    OFFICIAL,
    RULES,
    VLMEVALKIT,
    combination,
    matches,
    padded,
    totals,
)
from janus.eval.tables import write_tsv
from tests.mmvet_cases import files, judged

GOLDEN = json.loads((Path(__file__).parent / "golden" / "mmvet.json").read_text())
PNG = fixture_scenes(1)[0].png


# -- the rules ----------------------------------------------------------------------------------


def test_the_official_script_agrees_on_every_reply() -> None:
    """On the grade, on how often it asks, and on every request to the letter."""
    cases = list(judged(len(GOLDEN["scores"])))
    assert len(cases) == 12_000
    assert hashlib.sha256(json.dumps(cases).encode()).hexdigest() == GOLDEN["inputs"]
    codes = dict(zip(string.ascii_letters + string.digits, GOLDEN["values"], strict=False))
    requests = hashlib.sha256()
    for code, asked, (question, truth, answer, replies) in zip(
        GOLDEN["scores"], GOLDEN["asked"], cases, strict=True
    ):
        assert repr(OFFICIAL.grade(replies)) == codes[code], replies
        readable = [OFFICIAL.read(reply) is not None for reply in replies]
        assert (readable.index(True) if any(readable) else 5) + 1 == int(asked)
        for again in OFFICIAL.tries[: int(asked)]:
            prompt = OFFICIAL.prompt(question, truth, answer, again.closing)
            requests.update(json.dumps([prompt, again.temperature, OFFICIAL.max_tokens]).encode())
    assert requests.hexdigest() == GOLDEN["requests"]


def test_the_official_script_agrees_on_whole_files() -> None:
    for expected, (capabilities, replies) in zip(GOLDEN["files"], files(len(GOLDEN["files"])), strict=True):
        grades = {name: [_grade(reply) for reply in of] for name, of in replies.items()}
        found = totals(grades, capabilities)
        assert [repr(found["total"]), repr(found["std"])] == [expected["total"], expected["std"]]
        assert list(map(repr, found["runs"])) == expected["runs"]
        for kind in ("capabilities", "combinations"):
            assert {name: repr(value) for name, value in found[kind].items()} == expected[kind]


def _grade(reply: str) -> float:
    grade = OFFICIAL.grade([reply])
    assert grade is not None
    return grade


@pytest.mark.parametrize(
    ("rule", "digest"),
    [
        ("official", "d1b3e0a5b4e72c888b77164489d705bba4dd149934fff564dfba6443d81afe3f"),
        ("fixed", "d1b3e0a5b4e72c888b77164489d705bba4dd149934fff564dfba6443d81afe3f"),
        ("vlmevalkit", "f3e131e1d998e890676bda56a63e404f601cb5166293b1ab0c9fafd9d8567323"),
        ("lmms-eval", "4d9b806e960fcd3f25997104017744653443fb17f907aa0712b5efecea78438c"),
    ],
)
def test_prompts_are_the_published_ones_to_the_letter(rule: Any, digest: str) -> None:
    """SHA-256 of the text in mm-vet_evaluator.ipynb and .py, VLMEvalKit's mmvet.py, lmms-eval's utils.py."""
    assert hashlib.sha256(RULES[rule].table.encode()).hexdigest() == digest


def test_the_row_to_complete() -> None:
    row = OFFICIAL.prompt("What?", "-1<AND>-5 <OR> x", "x = 3").removeprefix(OFFICIAL.table)
    assert row == "\nWhat? | -1 <AND> -5  <OR>  x | x = 3 | "
    assert OFFICIAL.prompt("a", "b", "c", closing=True).endswith(f"\na | b | c | {CLOSING}")
    assert padded("a<OR>b") == "a <OR> b"


def test_vlmevalkit_wraps_the_lines_of_the_same_words() -> None:
    assert VLMEVALKIT.table.split() == OFFICIAL.table.split()
    assert OFFICIAL.table.count("\n") == 11
    assert VLMEVALKIT.table.count("\n") == 31


def test_lmms_eval_heads_the_table_with_the_name_of_a_variable() -> None:
    theirs = LMMS_EVAL.table.replace("gpt_query_prompt |", "Question |")
    assert theirs == OFFICIAL.table.replace("\n\nQuestion", "\nQuestion")
    assert LMMS_EVAL.prompt("a", "b", "c").endswith("\na | b | c |")


@pytest.mark.parametrize(
    ("reply", "official", "vlmevalkit", "lmms_eval", "fixed"),
    [
        ("0.7", 0.7, 0.7, 0.7, 0.7),
        (" 0.7", None, 0.7, 0.7, 0.7),  # officially the first word is the empty one before the space
        ("\n0.7", 0.7, 0.7, 0.7, 0.7),
        ("0.7 (partly right)", 0.7, None, 0.7, 0.7),  # VLMEvalKit wants nothing else
        ("0.7\nBecause", None, None, None, 0.7),
        ("0.7.", None, None, None, 0.7),
        ("**0.7**", None, None, None, 0.7),
        ("0.7 | 1.0", 0.7, None, 0.7, 0.7),
        ("1", 1.0, 1.0, 1.0, 1.0),
        (".5", 0.5, 0.5, 0.5, 0.5),
        ("1.1", None, None, None, None),
        ("-0.1", None, None, None, None),
        ("50%", None, None, None, None),
        ("1/2", None, None, None, None),
        ("Correctness: 0.7", None, None, None, None),
        ("", None, None, None, None),
        ("0_1", 1.0, 1.0, 1.0, None),  # Python's way to write 1
        ("1e-1", 0.1, 0.1, 0.1, None),
        ("٠.٥", 0.5, 0.5, 0.5, None),
    ],
)
def test_what_each_reads_in_a_reply(
    reply: str, official: float | None, vlmevalkit: float | None, lmms_eval: float | None, fixed: float | None
) -> None:
    found = [rule.read(reply) for rule in (OFFICIAL, VLMEVALKIT, LMMS_EVAL, FIXED)]
    assert found == [official, vlmevalkit, lmms_eval, fixed]


def test_nan_is_a_grade_for_the_official_script_and_vlmevalkit() -> None:
    assert [repr(rule.grade(["nan"])) for rule in (OFFICIAL, VLMEVALKIT)] == ["nan", "nan"]
    assert (LMMS_EVAL.read("nan"), FIXED.read("nan")) == (None, None)
    assert np.isnan(totals({"a": [float("nan")], "b": [1.0]}, {"a": ["rec"], "b": ["ocr"]})["total"])


def test_officially_the_second_try_is_as_cold_as_the_first() -> None:
    assert [again.temperature for again in OFFICIAL.tries] == [0.0, 0.0, 0.5, 1.0, 1.5]
    assert [again.closing for again in OFFICIAL.tries] == [False, True, True, True, True]
    assert [again.temperature for again in VLMEVALKIT.tries] == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert not any(again.closing for again in VLMEVALKIT.tries)


def test_what_cannot_be_read_is_nothing_officially_and_no_grade_when_fixed() -> None:
    nonsense = ["no idea"] * 5
    assert (OFFICIAL.grade(nonsense), VLMEVALKIT.grade(nonsense), LMMS_EVAL.grade(nonsense)) == (0, 0, 0)
    assert FIXED.grade(nonsense) is None
    assert OFFICIAL.grade([*nonsense, "0.9"]) == 0  # a sixth reply is asked for and never read
    assert LMMS_EVAL.grade([*nonsense[:4], "0.9"]) == 0


@given(st.text(alphabet=" \n0123456789.+-_e%*|an½٥", max_size=12))
def test_fixed_reads_a_grade_or_nothing(reply: str) -> None:
    value = FIXED.read(reply)
    assert value is None or 0 <= value <= 1
    theirs = OFFICIAL.read(reply)
    if value is not None and theirs is not None:
        assert value == theirs


def test_combinations_have_one_name() -> None:
    """The official one joins a set, in the order that the process' hashes give."""
    assert combination(["math", "ocr", "rec"]) == combination(["rec", "math", "ocr"]) == "rec_ocr_math"


@pytest.mark.parametrize(
    ("truth", "answer", "right"),
    [
        ("conditioner", "Conditioner.", True),
        ("conditioner", "the conditioner", False),
        ("1.25<OR>=1.25<OR>5/4", "= 1.25", True),
        ("1.25<OR>=1.25<OR>5/4", "5 / 4", True),
        ("1.25<OR>=1.25<OR>5/4", "12.5", False),
        ("-1<AND>-5", "x = -1 or x = -5", True),
        ("-1<AND>-5", "x = -1 or x = 5", False),
        ("-1<AND>-5", "x = -1", False),
        ("warm place<AND>1 hour", "Leave it for 1 hour in a WARM place!", True),
        ("third<OR> 3", "3", True),
        ("cat<AND>dog<OR>nothing", "nothing", True),
        ("cat<AND>dog<OR>nothing", "a cat", False),
        ("no", "", False),
    ],
)
def test_the_stand_in_matches_alternatives_and_all_parts(truth: str, answer: str, right: bool) -> None:
    assert matches(truth, answer) is right


# -- data ---------------------------------------------------------------------------------------

ROW = {"question": "What is x?", "answer": "-1<AND>-5", "capability": ["math", "ocr"]}
WANTED = {
    "id": "v1_0",
    "question": "What is x?",
    "answer": "-1<AND>-5",
    "capabilities": ["ocr", "math"],
}


def test_the_official_file_with_pictures_beside_it(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "v1_0.png").write_bytes(PNG)
    (tmp_path / "mm-vet.json").write_text(json.dumps({"v1_0": ROW | {"imagename": "v1_0.png"}}))
    samples = MMVet().samples(tmp_path, False)
    [line] = samples.lines
    assert {key: line[key] for key in WANTED} == WANTED
    assert samples.pictures[line["pictures"][0]] == PNG
    assert not samples.published


def test_the_official_file_is_known_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "v1_0.png").write_bytes(PNG)
    path = tmp_path / "mm-vet.json"
    path.write_text(json.dumps({"v1_0": ROW | {"imagename": "v1_0.png"}}))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(MMVet, "files", {digest: "MM-Vet's mm-vet.json"})
    for data in (path, tmp_path):
        samples = MMVet().samples(data, False)
        assert (samples.published, samples.title) == (True, "MM-Vet's mm-vet.json")


def test_vlmevalkits_tsv(tmp_path: Path) -> None:
    row = {"index": 7, "image": base64.b64encode(PNG).decode(), "question": "What is x?"}
    write_tsv(tmp_path / "MMVet.tsv", [row | {"answer": "-1<AND>-5", "category": "math,ocr"}])
    [line] = MMVet().samples(tmp_path, False).lines
    assert {key: line[key] for key in WANTED} == WANTED | {"id": "7"}


def test_lmms_labs_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    row = {"question_id": "v1_0", "question": "What is x?", "answer": "-1<AND>-5", "capability": "math,ocr"}
    table = pyarrow.Table.from_pylist([row | {"image": {"bytes": PNG, "path": "v1_0.png"}}])
    parquet.write_table(table, tmp_path / "test-00000-of-00001.parquet")
    [line] = MMVet().samples(tmp_path, False).lines
    assert {key: line[key] for key in WANTED} == WANTED
    assert len(line["pictures"]) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"question": ""}, "question must be some words, not ''"),
        ({"answer": 5}, "answer must be some words, not 5"),
        ({"capability": ["rec", "taste"]}, "capability must be some of rec, .* not .*taste"),
        ({"capability": []}, "capability must be some of"),
        ({"capability": None}, "capability must be some of"),
        ({"imagename": "v1_1.png"}, r"there is no picture v1_1\.png"),
        ({"imagename": None}, "there is no picture"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, change: Line, words: str) -> None:
    (tmp_path / "v1_0.png").write_bytes(PNG)
    good = ROW | {"imagename": "v1_0.png"}
    (tmp_path / "mm-vet.json").write_text(json.dumps({"v1_0": good, "v1_9": good | change}))
    with pytest.raises(ValueError, match=f"mm-vet.json, 'v1_9': {words}"):
        MMVet().samples(tmp_path, False)


def test_the_fixture_is_read_as_vlmevalkits_file_and_its_truths_match(tmp_path: Path) -> None:
    samples = MMVet().samples(None, True)
    kinds = {tuple(line["capabilities"]) for line in samples.lines}
    assert kinds == {("rec",), ("rec", "gen"), ("rec", "spat")}
    said = [line["answer"].split("<OR>")[0].replace("<AND>", " and a ") for line in samples.lines]
    scored = MMVet().score(answered(tmp_path, samples.lines, said))
    assert scored.scores["overall"] == 1
    assert "not graded by a judge" in scored.caveat
    assert "package's fixture" in scored.caveat


def test_questions_are_put_as_they_are_and_vlmevalkit_wants_steps() -> None:
    sample = {"question": "What is x?"}
    assert MMVet().prompt(sample) == MMVet(profile="vlmevalkit").prompt(sample) == "What is x?"
    assert MMVet().profile.systems.get("mmvet") is None
    assert "step by step" in MMVet(profile="vlmevalkit").profile.systems["mmvet"]


# -- judges -------------------------------------------------------------------------------------


class Scripted:
    """Replies with what `script` gives for a request; None is no reply."""

    chats = True

    def __init__(self, script: Callable[[Request], str | None], model: str = "gpt-4-0613") -> None:
        self.title, self.script, self.model = "scripted", script, model
        self.asked: list[Request] = []

    @property
    def identity(self) -> Line:
        return {"model": self.model}

    def check(self) -> None:
        raise ValueError("no key")

    def ask(self, requests: Sequence[Request], spent: Spent) -> Iterator[tuple[int, Reply]]:
        for place, request in enumerate(requests):
            self.asked.append(request)
            text = self.script(request)
            one = Spent(1)
            yield (
                place,
                Reply(text, "", self.model, one) if text else Reply(None, "no answer in time", "", one),
            )


SAMPLES: list[Line] = [
    {"id": name, "question": f"{name}?", "answer": "1", "capabilities": list(of), "pictures": [f"{name}.png"]}
    for name, of in {"a": ("rec",), "b": ("rec", "ocr"), "c": ("math",)}.items()
]


def answered(folder: Path, samples: Sequence[Line], said: Sequence[str | None]) -> Answers:
    raw = {
        Item(place, 0).key: {"item": Item(place, 0).key, **({"answer": text} if text is not None else {})}
        for place, text in enumerate(said)
    }
    return Answers(
        folder,
        samples,
        "the package's fixture" if samples is not SAMPLES else "x",
        samples is SAMPLES,
        1,
        raw,
    )


def graded(
    folder: Path, script: Callable[[Request], str | None], mode: Mode = "official", **more: Any
) -> Any:
    judge = Scripted(script)
    benchmark = MMVet(mode, judge=judge, **more)
    return judge, benchmark.score(answered(folder, SAMPLES, ["x", "y", "z"]))


def of(request: Request) -> str:
    return request.about.split(",")[0]


def test_grades_are_read_and_added_up(tmp_path: Path) -> None:
    judge, scored = graded(tmp_path, lambda request: {"a": "1.0", "b": "0.4", "c": "0.0"}[of(request)])
    assert scored.scores == {"overall": pytest.approx(1.4 / 3), "rec": 0.7, "ocr": 0.4, "math": 0.0}
    assert scored.details["official"]["total"] == 46.7
    assert scored.details["official"]["capabilities"] == {"rec": 70.0, "ocr": 40.0, "math": 0.0}
    assert scored.caveat == ""
    assert [line["reason"] for line in scored.verdicts] == ["", "graded 0.4", "graded 0"]
    assert judge.asked[0].prompt == OFFICIAL.prompt("a?", "1", "x")
    assert (judge.asked[0].max_tokens, judge.asked[0].temperature) == (3, 0.0)
    again, second = graded(tmp_path, lambda request: "0.0")
    assert (again.asked, second.scores) == ([], scored.scores)
    assert second.details["judge"]["spent"]["requests"] == 3


def test_only_what_cannot_be_read_is_asked_again(tmp_path: Path) -> None:
    replies = {"a": ["0.9"], "b": ["well", "hm", "0.5"], "c": ["?"] * 5}
    seen: dict[str, int] = {}

    def script(request: Request) -> str:
        seen[of(request)] = seen.get(of(request), 0) + 1
        return replies[of(request)][seen[of(request)] - 1]

    judge, scored = graded(tmp_path, script)
    assert seen == {"a": 1, "b": 3, "c": 5}
    own = [request for request in judge.asked if of(request) == "c"]
    assert [request.temperature for request in own] == [0.0, 0.0, 0.5, 1.0, 1.5]
    assert [request.prompt.endswith(CLOSING) for request in own] == [False, True, True, True, True]
    assert scored.scores["overall"] == pytest.approx(1.4 / 3)
    assert (scored.counts.parsed, scored.counts.scored) == (2, 3)
    assert scored.verdicts[2]["read"] is None
    assert scored.verdicts[2]["reason"] == "graded 0; the judge said '?', which is no grade"
    assert any("1 answers in no way that can be read; each counts 0.0" in note for note in scored.notes)


def test_fixed_gives_no_verdict_where_the_judge_gives_no_grade(tmp_path: Path) -> None:
    _, scored = graded(tmp_path, lambda request: "?" if of(request) == "c" else " 1.", "fixed")
    assert scored.scores == {"overall": None, "rec": 1.0, "ocr": 1.0, "math": None}
    assert (scored.counts.answered, scored.counts.scored, scored.counts.complete) == (3, 2, False)
    assert "by mended rules" in scored.caveat


def test_what_the_judge_did_not_answer_has_no_verdict_in_either_mode(tmp_path: Path) -> None:
    _, scored = graded(tmp_path, lambda request: None if of(request) == "b" else "1.0")
    assert scored.scores == {"overall": None, "rec": None, "ocr": None, "math": 1.0}
    assert [line["id"] for line in scored.verdicts] == ["a", "c"]
    assert scored.details["judge"]["failures"] == {"no answer in time": 1}
    assert scored.details["official"] is None
    assert any("no answer in time" in note for note in scored.notes)
    _, scored = graded(tmp_path, lambda request: "0.5")  # the others are known
    assert scored.scores["overall"] == pytest.approx(2.5 / 3)


def test_nan_makes_no_total(tmp_path: Path) -> None:
    _, scored = graded(tmp_path, lambda request: "nan" if of(request) == "a" else "1.0")
    assert scored.scores["overall"] is None
    assert any('"nan"' in note for note in scored.notes)
    assert "NaN" not in json.dumps([scored.scores, scored.verdicts, scored.details])


def test_several_runs_of_grading(tmp_path: Path) -> None:
    judge, scored = graded(tmp_path, lambda request: ("1.0", "0.0", "0.5")[request.number], runs=3)
    assert len(judge.asked) == 9
    assert scored.scores["overall"] == 0.5
    assert scored.details["official"]["runs"] == [100.0, 0.0, 50.0]
    assert scored.details["official"]["std"] == 40.8
    assert scored.verdicts[0]["grades"] == [1.0, 0.0, 0.5]


def test_another_judge_is_named_beside_the_score(tmp_path: Path) -> None:
    judge = Scripted(lambda request: "1.0", "gpt-4.1-2025-04-14")
    scored = MMVet(judge=judge).score(answered(tmp_path, SAMPLES, ["x", "y", "z"]))
    assert scored.caveat == (
        "graded by gpt-4.1-2025-04-14, published numbers by GPT-4 (gpt-4-0613); judges differ by points"
    )
    with pytest.raises(ValueError, match="no key"):
        MMVet(judge=judge).prepare()
    MMVet().prepare()


def test_missing_answers_are_counted(tmp_path: Path) -> None:
    scored = MMVet().score(answered(tmp_path, SAMPLES, ["1", None, "2"]))
    assert scored.scores == {"overall": None, "rec": None, "ocr": None, "math": 0.0}
    counts = scored.counts
    assert (counts.expected, counts.answered, counts.scored) == (3, 2, 2)
    with pytest.raises(ValueError, match="runs must be at least 1, not 0"):
        MMVet(runs=0)


def test_the_reports_numbers_stand_beside(tmp_path: Path) -> None:
    _, scored = graded(tmp_path, lambda request: "1.0")
    rows = {row[0]: row[1] for row in scored.tables[-1].rows}
    assert (rows["this run"], rows["Janus-Pro-1B"], rows["Janus-Pro-7B"]) == ("100.0", "39.8", "50.0")
