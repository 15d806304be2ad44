"""What an answer says, beside POPE's and MME's official code and two harnesses, and where they disagree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from janus.eval import yesno
from janus.eval.yesno import Reading
from tests.yesno_cases import answers, fingerprint

GOLDEN = Path(__file__).parent / "golden"
POPE, MME = (json.loads((GOLDEN / f"{name}.json").read_text()) for name in ("pope", "mme"))
SHORT: dict[Reading | None, str] = {"yes": "y", "no": "n", None: "-"}


def test_popes_script_and_both_harnesses_read_every_answer_so() -> None:
    cases = list(answers(len(POPE["verdicts"])))
    assert fingerprint(cases) == POPE["inputs"]
    assert len(set(cases)) > 11_000
    for text, letter in zip(cases, POPE["verdicts"], strict=True):
        rules = (yesno.pope_official, yesno.vlmevalkit, yesno.lmms_eval_pope)
        assert "".join(SHORT[rule(text)] for rule in rules) == POPE["legend"][letter], text


@pytest.mark.parametrize(
    ("text", "official", "vlmevalkit", "lmms_eval", "mended"),
    [
        ("Yes", "yes", "yes", "yes", "yes"),
        ("no", "no", "no", "no", "no"),
        ("Yes.", "yes", "yes", None, "yes"),
        ("No.", "no", "no", None, "no"),
        ("**Yes**", "yes", None, None, "yes"),
        ("**No**", "yes", None, None, "no"),
        ("NO", "yes", "no", "no", "no"),
        ("No!", "yes", "no", None, "no"),
        ("No\nThere is none.", "yes", "no", None, "no"),
        ("No, there is no dog.", "no", "no", None, "no"),
        ("Yes, there is no dog", "no", None, None, "yes"),
        ("There is not a cat", "no", None, None, None),
        ("not present", "no", None, None, None),
        ("There is a cat", "yes", None, None, None),
        ("I do know", "yes", None, None, None),
        ("yes or no", "no", None, None, None),
        ("Yes/No", "yes", None, None, None),
        ("Well. No", "yes", "no", None, "no"),
        ("", "yes", None, None, None),
        ("Ｎｏ", "yes", None, None, "no"),
        ("n", "yes", None, None, "no"),
    ],
)
def test_where_popes_rules_disagree(
    text: str,
    official: Reading,
    vlmevalkit: Reading | None,
    lmms_eval: Reading | None,
    mended: Reading | None,
) -> None:
    assert yesno.pope_official(text) == official
    assert yesno.vlmevalkit(text) == vlmevalkit
    assert yesno.lmms_eval_pope(text) == lmms_eval
    assert yesno.mended(text) == mended


def test_vlmevalkit_takes_out_32_points_and_spaces_decide_about_marks() -> None:
    assert yesno.without_punctuation("." * 32 + "no") == "no"
    assert yesno.without_punctuation("." * 33 + "no") == ".no"
    assert yesno.without_punctuation("yes-no") == "yes no"
    assert yesno.without_punctuation("yes-no -") == "yesno "
    assert yesno.without_punctuation("yes-no 1,000") == "yesno 1000"
    assert yesno.without_punctuation("3.5 no.") == "3.5 no"


@given(
    st.sampled_from(["yes", "no"]),
    st.sampled_from([str.upper, str.lower, str.capitalize]),
    st.text("*_`\"'()[]{}.,;:!?-> \n\t", max_size=6),
    st.text("*_`\"')]}.,;:!? \n\t", max_size=6),
)
def test_what_stands_around_a_word_does_not_matter_to_the_mended_rule(
    word: Reading, case: Any, before: str, after: str
) -> None:
    assert yesno.mended(f"{before}{case(word)}{after}") == word


@given(st.text(st.characters(exclude_characters="yYnN", exclude_categories=["Cs"]), max_size=30))
def test_nothing_is_read_where_neither_word_is(text: str) -> None:
    for rule in (yesno.mme_official, yesno.lmms_eval_mme, yesno.lmms_eval_pope, yesno.vlmevalkit):
        assert rule(text) is None
    assert yesno.pope_official(text) == "yes"


def test_a_yes_or_no_alone_is_read_alike_by_every_rule() -> None:
    for word in ("Yes", "yes", "No", "no"):
        rules = (yesno.pope_official, yesno.mme_official, yesno.lmms_eval_mme)
        more = (yesno.lmms_eval_pope, yesno.vlmevalkit, yesno.mended)
        assert {rule(word) for rule in (*rules, *more)} == {word.lower()}


def test_mmes_tool_and_lmms_eval_read_every_answer_so() -> None:
    cases = list(answers(len(MME["verdicts"])))
    assert fingerprint(cases) == MME["inputs"]
    for text, letter in zip(cases, MME["verdicts"], strict=True):
        rules = (yesno.mme_official, yesno.lmms_eval_mme)
        assert "".join(SHORT[rule(text)] for rule in rules) == MME["legend"][letter], text


@pytest.mark.parametrize(
    ("text", "official", "lmms_eval", "vlmevalkit", "mended"),
    [
        ("Yes, it is.", "yes", "yes", "yes", "yes"),
        ("No", "no", "no", "no", "no"),
        ("know", "no", "no", None, None),
        ("Not at all", "no", "no", None, None),
        ("None", "no", "no", None, None),
        ("Yes, there is no dog", "yes", "yes", None, "yes"),
        ("Answer: yes", None, None, "yes", "yes"),
        ("I say no", None, None, "no", "no"),
        ("  no", "no", "no", "no", "no"),
        ("   no", None, "no", "no", "no"),  # three spaces and an n are four characters
        ("y", None, "yes", None, "yes"),
        ("n.", None, "no", None, "no"),
        ("**No**", "no", "no", None, "no"),
        ("...no", None, "no", "no", "no"),
        ("n\no", "no", None, None, None),  # line breaks are deleted
        ("", None, None, None, None),
    ],
)
def test_where_mmes_rules_disagree(
    text: str,
    official: Reading | None,
    lmms_eval: Reading | None,
    vlmevalkit: Reading | None,
    mended: Reading | None,
) -> None:
    assert yesno.mme_official(text) == official
    assert yesno.lmms_eval_mme(text) == lmms_eval
    assert yesno.vlmevalkit(text) == vlmevalkit
    assert yesno.mended(text) == mended
