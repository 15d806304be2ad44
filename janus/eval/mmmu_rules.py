"""How MMMU reads answers and compares them with what is expected.

`official_*` are the rules of github.com/MMMU-Benchmark/MMMU (commit bb0b95a, mmmu/utils/eval_utils.py) but
for one: where they would pick an option at random, there is no answer here.  `vlmevalkit_open`, `lmms_eval_*`
are those of the two harnesses.  `mended_*` are those of mode `fixed`; docs/evaluation.md says what they mend.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

from janus.eval.benchmark import Mode
from janus.eval.choices import Options, Reader, has_words, mended, vlmevalkit

Gold: TypeAlias = str | Sequence[str]  # several: any of them is right
Read: TypeAlias = Sequence[str | float]  # what an open answer may mean
OpenReader: TypeAlias = Callable[[str], Read]
Comparer: TypeAlias = Callable[[Gold, Read], bool]

_ENDS = (",", ".", "!", "?", ";", ":", "'")
_WORDS = 5  # answers of more than these may be read by the text of the options
_LEADS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")


# -- multiple choice ----------------------------------------------------------------------------


def official_choice(answer: str, options: Options) -> str | None:
    """`parse_multi_choice_response`: the last "(X)"; else the last X between spaces; else, in an answer of
    more than five words, the option whose text comes last.  None where the official rule guesses.
    """
    return _last_choice(answer, options, ("({})", " {} "))


def lmms_eval_choice(answer: str, options: Options) -> str | None:
    """lmms-eval's `parse_mmmu_multi_choice_response` (lmms_eval/tasks/_task_utils/mmmu_mcq_utils.py): nothing
    need stand before a letter that a space follows, and then "X." is looked for; but which of several comes
    last is judged by "X" between spaces alone.
    """
    return _last_choice(answer, options, ("({})", "{} ", "{}."), ("({})", " {} ", " {} "))


def _last_choice(
    answer: str, options: Options, forms: Sequence[str], ordered_by: Sequence[str] = ()
) -> str | None:
    for mark in _ENDS:
        answer = answer.strip(mark)
    answer = f" {answer} "
    for form, order in zip(forms, ordered_by or forms, strict=True):
        found = [letter for letter in options if form.format(letter) in answer]
        if found:
            return _last(found, [answer.rfind(order.format(letter)) for letter in found])
    if len(answer.split()) > _WORDS:
        lower = answer.lower()
        found = [letter for letter, text in options.items() if text.lower() in lower]
        return _last(found, [lower.rfind(options[letter].lower()) for letter in found])
    return None


def _last(found: Sequence[str], places: Sequence[int]) -> str | None:
    """The one in the last place, of equal ones the first."""
    return max(zip(found, places, strict=True), key=lambda one: one[1])[0] if found else None


def mended_choice(answer: str, options: Options) -> str | None:
    """The rule for all benchmarks, and where that finds none the last letter or text, as the official one
    does.
    """
    return mended(answer, options) or official_choice(answer, options)


# -- open questions -----------------------------------------------------------------------------

_THOUSANDS = re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b")
_SCIENTIFIC = re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+")
_SIMPLE = re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])")


def official_open(answer: str) -> list[str | float]:
    """`parse_open_response`: what follows words such as "is" or "answer" in each line, and its numbers."""
    answer = answer.strip().strip(".").lower()
    lines = re.split(r"\.\s(?=[A-Z])|\n", answer)  # the capital is never there any more
    tails = []
    for number, line in enumerate(lines, 1):
        leads = (*_LEADS, "=") if number == len(lines) else _LEADS
        tail = _shortest([line.split(lead)[-1].strip() for lead in leads if lead in line])
        if tail and tail not in _ENDS:
            tails.append(tail)
    tails = tails or [answer]
    numbers = [number for tail in tails for number in _numbers(tail)]
    return _distinct([value for text in [*tails, *numbers] for value in normalised(text)])


def _shortest(tails: Sequence[str]) -> str:
    """The first of the shortest; an empty one counts only where another one comes behind it.

    So it is in the official rule, where an empty tail is replaced by whatever comes next.
    """
    best = ""
    for tail in tails:
        if not best or len(tail) < len(best):
            best = tail
    return best


def _numbers(text: str) -> list[str]:
    return [number for pattern in (_THOUSANDS, _SCIENTIFIC, _SIMPLE) for number in pattern.findall(text)]


def normalised(text: str) -> list[str | float]:
    """`normalize_str`: a number to two decimals, or text in small letters; a single letter with a space on
    either side, so that it is not found in every word."""
    text = text.strip()
    number = _number(text)
    if number is not None:
        return [round(number, 2)]
    text = text.lower()
    return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def _distinct(values: Sequence[str | float]) -> list[str | float]:
    return list(dict.fromkeys(values))


def golds(gold: Gold) -> list[str]:
    return [gold] if isinstance(gold, str) else list(gold)


def official_equal(gold: Gold, read: Read) -> bool:
    """`eval_open`: a text that is expected is in one of those read, or a number is one of them."""
    expected = [value for one in golds(gold) for value in normalised(one)]
    texts = [value for value in expected if isinstance(value, str)]
    return any(
        any(text in value for text in texts) if isinstance(value, str) else value in expected
        for value in read
    )


# -- what the harnesses make of open questions --------------------------------------------------


def vlmevalkit_open(answer: str, gold: Gold) -> bool:
    """VLMEvalKit (vlmeval/dataset/utils/multiple_choice.py, `MMMU_preproc` and `mcq_vanilla_eval`): a choice
    between A, the expected answer, and B, "Other Answers"; A is right, unless what is expected is itself a
    letter.
    """
    text = gold if isinstance(gold, str) else repr(list(gold))
    right = text if re.fullmatch("[A-Z]", text) else "A"
    return vlmevalkit(answer, {"A": text, "B": "Other Answers"}) == right


def lmms_eval_open(answer: str, gold: Gold) -> bool:
    """lmms-eval (lmms_eval/tasks/mmmu/utils.py, at commit 75571cf): the first of what was read, as text, is
    compared letter by letter.  Nothing that is expected is that short, so that no answer is right.
    """
    return any(official_equal(gold, list(str(value))) for value in official_open(answer)[:1])


# -- mode "fixed" -------------------------------------------------------------------------------

_SENTENCE = re.compile(r"\.\s+(?=[A-Z])|\n")
_LEAD = re.compile(r"\b(?:could be|so|is|thus|therefore|final|answer|result)\b[\s:]*|=", re.IGNORECASE)
_TIMES_TEN = r"\s*[x×*]\s*10\s*\^\s*\{?"
_AMOUNT = re.compile(
    r"(?<![\w.,])[-−]?(?:\d{1,3}(?:,\d{3})+(?!,?\d)|\d+)?(?:\.\d+|(?<=\d))"  # 1,000.5, but a 3 in 5-3
    rf"(?:[eE][+-]?\d+|{_TIMES_TEN}[-+−]?\d+\}}?)?"  # times a power of ten
    r"(?:\s*/\s*\d+)?(?!\d)"
)
_MARKS = " \t.,:;!?'\"*`$()[]"
_ALL_LETTERS = dict.fromkeys("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "")


def mended_open(answer: str) -> list[str | float]:
    """What follows words such as "is" or "answer" in each sentence, and the numbers in it, each of them
    whole.
    """
    tails = []
    for sentence in _SENTENCE.split(answer.strip().rstrip(".")):
        tail = _LEAD.split(sentence)[-1].strip(" \t.,:;!?'\"*`$")
        if tail and _LEAD.search(sentence):
            tails.append(tail)
    tails = tails or [answer.strip()]
    found = (_amount(match) for tail in tails for match in _AMOUNT.findall(tail))
    return _distinct([*tails, *(number for number in found if number is not None)])


def _amount(text: str) -> float | None:
    """A number as people write it: thousands, powers of ten, fractions.  None for what is none."""
    plain = re.sub(_TIMES_TEN, "e", text).replace("−", "-")
    plain = re.sub(r"[},\s]", "", plain)
    over, _, under = plain.partition("/")
    try:
        number = float(over) / float(under or 1)
    except (ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) else None


def mended_equal(gold: Gold, read: Read) -> bool:
    """A text that is expected is among the words of one that was read; or a number is the same to two
    decimals or three digits, whichever is more; or a letter is all that was read, or the only letter that
    stands alone.
    """
    return any(_says(value, one.strip().strip("$")) for one in golds(gold) for value in read)


def _says(value: str | float, expected: str) -> bool:
    number = _amount(expected) if _AMOUNT.fullmatch(expected) else None
    if isinstance(value, float) or number is not None:
        return isinstance(value, float) and number is not None and _close(value, number)
    if len(expected) == 1 and expected.isalpha():
        words = value.split()
        last = words[-1].strip(_MARKS).upper() if 0 < len(words) <= 2 else ""  # "step b"
        return expected.upper() in (mended(value, _ALL_LETTERS), last)
    return has_words(value.casefold(), expected.casefold())


def _close(number: float, expected: float) -> bool:
    digits = 2 - math.floor(math.log10(abs(expected))) if expected else 2
    return round(number, max(2, digits)) == round(expected, max(2, digits))


CHOICE: dict[Mode, Reader] = {"official": official_choice, "fixed": mended_choice}
OPEN: dict[Mode, tuple[OpenReader, Comparer]] = {
    "official": (official_open, official_equal),
    "fixed": (mended_open, mended_equal),
}
