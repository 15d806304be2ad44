"""How an answer to a multiple choice question is read: every published rule as a function of its own.

Each takes the answer and the options by their letter, and gives a letter, or None where the rule finds none.
Nothing is guessed.  `mended` is the rule of mode `fixed`; docs/evaluation.md says what it mends.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping

from janus.eval.benchmark import Mode

Options = Mapping[str, str]
Reader = Callable[[str, Options], str | None]

REFUSED = "Z"  # what VLMEvalKit calls an answer that fits no option
_FAILED = "Failed to obtain answer via API"
_REFUSALS = (  # facts of the rule
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_SPACED = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_SAID = re.compile(r"answer\s+is\s+\**([ABCD])", re.IGNORECASE)


def vlmevalkit(answer: str, options: Options) -> str | None:
    """VLMEvalKit's `can_infer` (vlmeval/utils/matching_util.py), its environment variable VERBOSE not set.

    The one letter that stands alone, if it is among the last four words; "answer is X", X being A to D in
    either case and perhaps the beginning of a word; the one option whose text is in the answer, unless the
    answer is more than twice as long as all options together.  May give `REFUSED`.
    """
    return _vlmevalkit_letter(answer, options) or _vlmevalkit_text(answer, options)


def _vlmevalkit_letter(answer: str, options: Options) -> str | None:
    if _FAILED in answer:
        return None
    if any(phrase in answer for phrase in _REFUSALS):
        return REFUSED
    words = answer.translate(_SPACED).split()
    alone = [letter for letter in options if letter in words]
    if len(alone) == 1 and words.index(alone[0]) >= len(words) - 4:
        return alone[0]
    if not alone and REFUSED in words:
        return REFUSED
    said = _SAID.search(answer)
    return said[1].upper() if said and said[1].upper() in options else None


def _vlmevalkit_text(answer: str, options: Options) -> str | None:
    answer = answer.lower()
    if len(answer) > 2 * sum(map(len, options.values())):
        return None
    return _only([letter for letter, text in options.items() if text.lower() in answer])


# lmms-eval looks for a lone letter as it is, then with these before and behind it.
_DRESSED = (
    *[("", mark) for mark in (".", ",", ":", ")", ").")],
    *[("(", mark) for mark in (")", ").")],
    *[(":", mark) for mark in ("", ",", ".", ")", ").")],
)


def lmms_eval(answer: str, options: Options) -> str | None:
    """lmms-eval's `can_infer` (lmms_eval/tasks/mmbench/mmbench_evals.py).

    Looks for A to E whatever the options are; an "A" among more than three words hides a lone letter that has
    no mark at it; missing options have the text "nan"; the length of the answer does not matter.
    """
    words = answer.split()
    if _FAILED not in answer:
        for before, behind in (("", ""), *_DRESSED):
            alone = _only([letter for letter in "ABCDE" if f"{before}{letter}{behind}" in words])
            if alone and (before or behind or len(words) <= 3 or "A" not in words):
                return alone
    texts = {letter: options.get(letter, "nan").lower() for letter in "ABCD"}
    return _only([letter for letter, text in texts.items() if text in answer.lower()])


def llava(answer: str, options: Options) -> str | None:
    """LLaVA's scripts/convert_seed_for_submission.py: the answer must be the letter and nothing else."""
    return answer if answer in options else None


def first_character(answer: str, options: Options) -> str | None:
    """lmms-eval's rule for SEED-Bench (lmms_eval/tasks/seedbench/utils.py), in either case."""
    first = answer.strip()[:1].upper()
    return first if first in options else None


# -- mode "fixed" -------------------------------------------------------------------------------

_LABELS = ("option", "choice", "answer", "letter", "point", "step", "figure")
_LABELLED = f"(?:{'|'.join(f'(?<=[{word[0].upper()}{word[0]}]{word[1:]} )' for word in _LABELS)})"
_WRAPPED = string.whitespace + string.punctuation + "“”‘’"


def mended(answer: str, options: Options) -> str | None:
    """A letter by itself; the text of an option by itself; "answer is X", the last time that it is said; the
    one letter that stands alone; the one option whose words are in the answer, of nested ones the longest.

    The article "A" and the pronoun "I" are no letters, unless a word such as "option" stands before them.
    May give `REFUSED`.
    """
    if _FAILED in answer:
        return None
    if any(phrase in answer for phrase in _REFUSALS):
        return REFUSED
    bare = answer.strip(_WRAPPED)
    if bare.upper() in options or bare == REFUSED:
        return bare.upper()
    if same := _only([key for key, text in options.items() if _bare(text) == bare.casefold() != ""]):
        return same
    if said := re.findall(_said(options), answer):
        return str(said[-1]).upper()
    if alone := set(re.findall(_alone(options), answer)):
        return _only(sorted(alone))
    return _mentioned(answer, options)


def _bare(text: str) -> str:
    return text.strip(_WRAPPED).casefold()


def _alone(options: Options) -> str:
    """Letters that stand alone and are neither article nor pronoun."""
    letters = "".join(options)
    article = r"(?!(?<=A)\s+(?!(?:is|was|because|since|as|and|or)\b)[a-z])"
    pronoun = r"(?!(?<=I)\s+[a-z])"
    plain = rf"[{letters}](?![\w'’])"
    return rf"(?<![\w'’])(?:{_LABELLED}{plain}|{plain}{article}{pronoun})"


def _said(options: Options) -> str:
    """ "answer is X", "Answer: (x)"; a small letter only where nothing follows but punctuation."""
    small = "".join(options).lower()
    head = r"(?i:answer)(?:\s+(?i:is)\s*:?|\s*[:=])[\s*(\"'“\[{`]*(?i:option\s+)?"
    return rf"{head}({_alone(options)}|[{small}](?=\W*$))"


def _mentioned(answer: str, options: Options) -> str | None:
    answer = answer.casefold()
    texts = {letter: _bare(text) for letter, text in options.items() if _bare(text)}
    found = {letter: text for letter, text in texts.items() if has_words(answer, text)}
    return _only([letter for letter, text in found.items() if not _nested(text, found)])


def _nested(text: str, found: Mapping[str, str]) -> bool:
    return any(other != text and has_words(other, text) for other in found.values())


def has_words(text: str, words: str) -> bool:
    """Whether `words` are in it and are not part of longer words or numbers."""
    edges = r"(?<![A-Za-z0-9])(?<!\d[.,]){}(?![A-Za-z0-9])(?![.,]\d)"
    return re.search(edges.format(re.escape(words)), text) is not None


def _only(found: list[str]) -> str | None:
    return found[0] if len(found) == 1 else None


READERS: dict[Mode, Reader] = {"official": vlmevalkit, "fixed": mended}
OTHERS: dict[str, Reader] = {  # shown beside the score, for answers read by other harnesses' rules
    "lmms-eval on MMBench": lmms_eval,
    "lmms-eval on SEED-Bench": first_character,
    "LLaVA": llava,
}
