"""What an answer to a yes-or-no question says, as POPE, MME and the two large harnesses read it.

Each rule is a function from the model's text to "yes", "no" or None, where the rule finds neither.  They
disagree: on "**Yes**", "Yes, there is no dog", "There is not a cat", "I know", on the empty answer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Literal

Reading = Literal["yes", "no"]
Rule = Callable[[str], Reading | None]
REQUEST = " Please answer yes or no."  # at the end of MME's questions, and of POPE's in VLMEvalKit

_WORD = re.compile(r"\w+")
# At the beginning, before a mark or the end; not where the request is repeated: "yes or no", "yes/no".
_FIRST = re.compile(r"\W*(yes|no)\b(?!\W*(?:(?:or|and)\b|/)\W*(?:yes|no)\b)(?=\s*(?:[^\w\s]|$))")
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_NUMBER = re.compile(r"\d,\d")
_POINT = re.compile(r"(?<!\d)\.(?!\d)")
_POINTS = 32  # re.UNICODE, given where the number of replacements stands


def pope_official(text: str) -> Reading:
    """POPE (RUCAIBox/POPE, evaluate.py): no, if one of three words is in the first sentence, else yes.

    Whatever cannot be read is a yes: the empty answer, "NO", "No!", "No" before a line break.
    """
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def mme_official(text: str) -> Reading | None:
    """MME (eval_tool.zip, calculation.py, `parse_pred_ans`): what the first four characters hold.

    "know" and "not" hold a no, "Answer: yes" nothing.  Answers stand in one line of a file; its readme asks
    to delete line breaks.
    """
    return _by_four(text.replace("\r", "").replace("\n", "").lower())


def lmms_eval_mme(text: str) -> Reading | None:
    """lmms-eval on MME (tasks/mme/utils.py, `parse_pred_ans`): stripped, without dots; also y and n."""
    text = text.lower().strip().replace(".", "")
    if text in ("y", "n"):
        return "yes" if text == "y" else "no"
    return _by_four(text)


def lmms_eval_pope(text: str) -> Reading | None:
    """lmms-eval on POPE (tasks/pope/utils.py, `pope_process_results`): the bare word, "Yes." is none."""
    match text.lower().strip():
        case "yes":
            return "yes"
        case "no":
            return "no"
    return None


def vlmevalkit(text: str) -> Reading | None:
    """VLMEvalKit on both (dataset/utils/yorn.py, `YOrN_Extraction`): the one of the two words that is there.

    Asterisks and quotes are part of a word.  It may ask a judge where this finds nothing; here nobody does.
    """
    words = without_punctuation(text.lower()).split()
    return _only(words)


def mended(text: str) -> Reading | None:
    """Our own: a yes or no set apart at the beginning, else the only one of the two words that is there.

    Case, width and punctuation of any kind do not matter; "y" and "n" count alone; "yes or no" says neither.
    """
    text = unicodedata.normalize("NFKC", text).casefold().replace("_", " ")
    first = _FIRST.match(text)
    if first:
        return "yes" if first[1] == "yes" else "no"
    words = _WORD.findall(text)
    if words in (["y"], ["n"]):
        return "yes" if words == ["y"] else "no"
    return _only(words)


def label(cell: object) -> Reading:
    """The right answer as data files have it.  Raises ValueError for anything else."""
    match str(cell).strip().lower():
        case "yes":
            return "yes"
        case "no":
            return "no"
    raise ValueError(f"the right answer must be yes or no, not {cell!r}")


def reason(read: Reading | None, right: Reading) -> str:
    """Why an answer is wrong; empty if it is not."""
    if read == right:
        return ""
    return "says neither" if read is None else f"says {read}, right is {right}"


def without_punctuation(text: str) -> str:
    """VLMEvalKit's `process_punctuation` (smp/misc.py), after the VQA evaluation.

    A mark becomes a space where it joins words, and nothing if it stands beside a space anywhere in the text,
    or if a number with a comma is in it.  Of the points, not those in numbers, only the first 32 go.
    """
    number = _NUMBER.search(text)
    result = text
    for mark in _MARKS:
        apart = f"{mark} " in text or f" {mark}" in text or number
        result = result.replace(mark, "" if apart else " ")
    return _POINT.sub("", result, count=_POINTS)


def _by_four(text: str) -> Reading | None:
    beginning = text[:4]
    if "yes" in beginning:
        return "yes"
    return "no" if "no" in beginning else None


def _only(words: list[str]) -> Reading | None:
    if ("yes" in words) == ("no" in words):
        return None
    return "yes" if "yes" in words else "no"
