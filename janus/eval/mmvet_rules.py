"""MM-Vet's rules: what the judge is asked about an answer, how its grade is read, what the grades add up to.

`official` is `mm-vet_evaluator.ipynb` and `.py` of github.com/yuweihao/MM-Vet (commit acde843), whose two
versions ask and read alike; `fixed` mends it.  VLMEvalKit (`vlmeval/dataset/utils/mmvet.py`, commit e8e78f0)
and lmms-eval (`lmms_eval/tasks/mmvet/utils.py`, commit 75571cf) have rules of their own, kept here so that
disagreements can be shown.  docs/evaluation.md explains them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from janus.eval.benchmark import Line

CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")
JUDGE = "gpt-4-0613"  # the official script's
CLOSING = "\nPredict the correctness of the answer (digit): "

# The published prompt, to the letter.  VLMEvalKit wraps its lines as they stand here; the official script has
# a space in place of each break, and so has lmms-eval.
_TASK = """Compare the ground truth and prediction from AI models, to give a correctness score for the prediction.
<AND> in the ground truth means it is totally right
only when all elements in the ground truth are present in the prediction,
and <OR> means it is totally right when any one element in the ground truth is present in the prediction.
The correctness score is 0.0 (totally wrong), 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, or 1.0 (totally right).
Just complete the last space of the correctness score."""  # noqa: E501
_HEAD = "Question | Ground truth | Prediction | Correctness"
_RULE = "--- | --- | --- | ---"
_EQUATION = "What is x in the equation? | -1 <AND> -5 | "
_MEME = """Can you explain this meme? | This meme is poking fun at the fact that the names of the countries
Iceland and Greenland are misleading. Despite its name, Iceland is known for its beautiful green landscapes,
while Greenland is mostly covered in ice and snow. The meme is saying that the person has trust issues
because the names of these countries do not accurately represent their landscapes. |
"""
_SHOTS = (
    f"{_EQUATION}x = 3 | 0.0",
    f"{_EQUATION}x = -1 | 0.5",
    f"{_EQUATION}x = -5 | 0.5",
    f"{_EQUATION}x = -5 or 5 | 0.5",
    f"{_EQUATION}x = -1 or x = -5 | 1.0",
    f"{_MEME}The meme talks about Iceland and Greenland. It's pointing out that despite their names,\n"
    "Iceland is not very icy and Greenland isn't very green. | 0.4",
    f"{_MEME}The meme is using humor to point out the misleading nature of Iceland's and Greenland's names.\n"
    "Iceland, despite its name, has lush green landscapes while Greenland is mostly covered in ice and snow."
    "\n"
    "The text 'This is why I have trust issues' is a playful way to suggest\n"
    "that these contradictions can lead to distrust or confusion.\n"
    "The humor in this meme is derived from the unexpected contrast between the names of the countries\n"
    "and their actual physical characteristics. | 1.0",
)


def _table(wrapped: bool = False, head: str = _HEAD, gap: str = "\n\n") -> str:
    task, *shots = (text if wrapped else text.replace("\n", " ") for text in (_TASK, *_SHOTS))
    return f"{task}{gap}" + "\n".join([head, _RULE, *shots]) + "\n"


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _first_word(reply: str) -> float | None:
    """`content.split(" ")[0].strip()` as a float that is not below 0 nor above 1: "nan" is neither."""
    value = _float(reply.split(" ")[0].strip())
    return None if value is None or value > 1 or value < 0 else value


def _whole_reply(reply: str) -> float | None:
    """VLMEvalKit: nothing may stand beside the number."""
    value = _float(reply)
    return None if value is None or value < 0 or value > 1 else value


def _first_word_stripped(reply: str) -> float | None:
    """lmms-eval strips the reply first, and wants the number inside the range, which "nan" is not."""
    value = _float(reply.strip().split(" ")[0].strip())
    return value if value is not None and 0 <= value <= 1 else None


def _number(reply: str) -> float | None:
    """A plain number from 0 to 1 that the reply begins with, whatever marks stand around it."""
    words = reply.split()
    word = words[0].strip("*_`'\"|()[]").rstrip(".,;:|") if words else ""
    value = float(word) if re.fullmatch(r"[0-9]*\.?[0-9]+", word) else None
    return value if value is not None and value <= 1 else None


@dataclass(frozen=True)
class Try:
    """One question to the judge about one answer."""

    temperature: float
    closing: bool = False  # whether `CLOSING` ends the prompt


@dataclass(frozen=True)
class Rule:
    """How an answer is judged: asked again, as `tries` has it, until the reply can be read."""

    table: str  # the task and the rows before the one that the judge completes
    end: str  # of that row
    tries: tuple[Try, ...]
    read: Callable[[str], float | None]
    max_tokens: int
    unread: float | None  # the grade where no reply could be read; None: there is none

    def prompt(self, question: str, truth: str, answer: str, closing: bool = False) -> str:
        row = " | ".join([question, padded(truth), answer])
        return f"{self.table}\n{row}{self.end}{CLOSING if closing else ''}"

    def grade(self, replies: Sequence[str]) -> float | None:
        """From the replies to the tries, as many as there were."""
        for reply in replies[: len(self.tries)]:
            if (value := self.read(reply)) is not None:
                return value
        return self.unread


# The official script raises the temperature after it has asked again, so that the second try is at 0 as the
# first; it also asks a sixth time, at 2.0, and never reads that reply, which is not done here.
OFFICIAL = Rule(
    table=_table(),
    end=" | ",
    tries=(Try(0.0), *(Try(temperature, closing=True) for temperature in (0.0, 0.5, 1.0, 1.5))),
    read=_first_word,
    max_tokens=3,
    unread=0.0,
)
FIXED = replace(OFFICIAL, read=_number, unread=None)
VLMEVALKIT = Rule(
    table="\n" + _table(wrapped=True),
    end=" | ",
    tries=tuple(Try(temperature) for temperature in (0.0, 0.5, 1.0, 1.5, 2.0)),
    read=_whole_reply,
    max_tokens=2048,
    unread=0.0,
)
# lmms-eval asks twice at each temperature but the first and reads only the second reply; a number outside the
# range is asked about for ever, here it is a reply as any other that cannot be read.
LMMS_EVAL = Rule(
    table=_table(head=_HEAD.replace("Question", "gpt_query_prompt"), gap="\n"),
    end=" |",
    tries=tuple(Try(temperature) for temperature in (0.0, 0.5, 1.0, 1.5)),
    read=_first_word_stripped,
    max_tokens=128,
    unread=0.0,
)
RULES: dict[Literal["official", "fixed", "vlmevalkit", "lmms-eval"], Rule] = {
    "official": OFFICIAL,
    "fixed": FIXED,
    "vlmevalkit": VLMEVALKIT,
    "lmms-eval": LMMS_EVAL,
}


def padded(truth: str) -> str:
    """With spaces around the marks, as every harness has it; spaces that are there already stay."""
    return truth.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")


def combination(capabilities: Sequence[str]) -> str:
    """The name of a combination of capabilities: always in one order, where the official script's depends on
    the process that runs it."""
    return "_".join(sorted(set(capabilities), key=CAPABILITIES.index))


def totals(grades: Mapping[str, Sequence[float]], capabilities: Mapping[str, Sequence[str]]) -> Line:
    """What the official script writes: percentages to one decimal, over all, by capability, by combination.

    grades: by question, one for each run over all of them.  capabilities: of each question.  Sums are made
    in order and rounded as numpy does, as there (`export_result`).
    """
    runs = {len(of) for of in grades.values()}
    if len(runs) != 1 or grades.keys() != capabilities.keys():
        raise ValueError("every question must have as many grades as the others, and no other may have any")
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}
    for question, of in grades.items():
        own = capabilities[question]
        for group in ("", *(f"one {name}" for name in sorted(set(own))), f"all {combination(own)}"):
            sums[group] = sums.get(group, np.zeros(max(runs))) + np.asarray(of, np.float64)
            counts[group] = counts.get(group, 0) + 1
    shares = {group: sums[group] / counts[group] * 100 for group in sums}

    def of_kind(kind: str) -> dict[str, float]:
        return {
            group.removeprefix(kind): float(np.round(share.mean(), 1))
            for group, share in shares.items()
            if group.startswith(kind)
        }

    return {
        "total": float(np.round(shares[""].mean(), 1)),
        "std": float(np.round(shares[""].std(), 1)),
        "runs": [float(share) for share in np.round(shares[""], 1)],
        "capabilities": of_kind("one "),
        "combinations": of_kind("all "),
    }


def matches(truth: str, answer: str) -> bool:
    """The stand-in where there is no judge: the answer is one of the <OR> alternatives, or has all <AND>
    parts of one; neither case nor punctuation counts."""
    said = _words(answer)
    return any(
        all(_within(_words(part), said) for part in parts) if len(parts) > 1 else _words(parts[0]) == said
        for parts in (alternative.split("<AND>") for alternative in truth.split("<OR>"))
    )


def _words(text: str) -> list[str]:
    return re.findall(r"(?<!\w)-?\d+(?:[.,]\d+)*|\w+", text.casefold())


def _within(part: list[str], words: list[str]) -> bool:
    return any(words[start : start + len(part)] == part for start in range(len(words) - len(part) + 1))
