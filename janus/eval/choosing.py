"""What MMBench, SEED-Bench and MMMU share: options of a row, reading by rule and by judge, tables."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from janus.eval.benchmark import Answers, Line, Mode, Progress, Table
from janus.eval.choices import Options, Reader
from janus.eval.judges import Consultation, Judge, Request
from janus.eval.profiles import Form, ProfileName
from janus.eval.published import beside
from janus.eval.tallies import share, shown, shown_interval
from janus.eval.understanding import Understanding

LETTERS = string.ascii_uppercase
TRIES = 3  # replies of a judge, until an answer counts as unreadable
# VLMEvalKit's (vlmeval/dataset/utils/multiple_choice.py, `build_prompt`), to the letter.
PROMPT = (
    "You are an AI assistant who will help me to match an answer with several options of a single-choice "
    "question. You are provided with a question, several options, and an answer, and you need to find "
    "which option is most similar to the answer. If the meaning of all options are significantly different "
    "from the answer, output Z. Your should output a single uppercase character in A, B, C, D (if they are "
    "valid options), and Z. \n"
    "Example 1: \n"
    "Question: What is the main object in image?\nOptions: A. teddy bear B. rabbit C. cat D. dog\n"
    "Answer: a cute teddy bear\nYour output: A\n"
    "Example 2: \n"
    "Question: What is the main object in image?\nOptions: A. teddy bear B. rabbit C. cat D. dog\n"
    "Answer: Spider\nYour output: Z\n"
    "Example 3: \n"
    "Question: {}?\nOptions: {}\nAnswer: {}\nYour output: "
)


@dataclass(frozen=True)
class Choice:
    """What one answer was read as."""

    letter: str | None  # None: as nothing, which is wrong
    judged: bool = False  # a judge was asked
    error: str = ""  # why the judge has not said; there is no verdict then


def judge_prompt(question: str, options: Options, answer: str) -> str:
    """What a judge is asked about an answer that no rule reads."""
    listed = "".join(f"{letter}. {text}\n" for letter, text in options.items())
    return PROMPT.format(question, f"There are several options: \n{listed}", answer)


class MultipleChoice(Understanding):
    """A benchmark that asks for letters of options.

    judge: who is asked about answers that the rules cannot read; None: they count as wrong.
    """

    form: ClassVar[Form] = "choice"

    def __init__(
        self, mode: Mode = "official", profile: ProfileName = "pro", judge: Judge | None = None
    ) -> None:
        super().__init__(mode, profile)
        self.judge = judge

    def prepare(self) -> None:
        """Raises ValueError for a judge that cannot be asked."""
        if self.judge is None:
            return
        if not self.judge.chats:
            raise ValueError(
                f"{self.judge.title} follows no instructions and cannot match answers with options"
            )
        self.judge.check()


class Choosing:
    """The answers to multiple choice questions, read by a rule, and where that finds nothing by a judge."""

    def __init__(
        self,
        answers: Answers,
        places: Sequence[int],
        reader: Reader,
        judge: Judge | None,
        on_progress: Progress | None = None,
    ) -> None:
        self.choices: dict[int, Choice] = {}
        self.consultation = None if judge is None else Consultation(judge, answers.folder)
        unread = []
        for place in places:
            text = answers.text(place)
            if text is None:
                continue
            self.choices[place] = Choice(reader(text, answers.samples[place]["options"]))
            if self.choices[place].letter is None:
                unread.append(place)
        if self.consultation is not None:
            self._ask(answers, unread, reader, self.consultation, on_progress)

    def _ask(
        self,
        answers: Answers,
        waiting: Sequence[int],
        reader: Reader,
        consultation: Consultation,
        on_progress: Progress | None,
    ) -> None:
        """All first tries together, then second ones for replies that could not be read, and so on."""
        for number in range(TRIES):
            requests = []
            for place in waiting:
                sample = answers.samples[place]
                prompt = judge_prompt(sample["question"], sample["options"], answers.text(place) or "")
                about = f"{sample['id']}, try {number}"
                requests.append(Request(prompt, max_tokens=64, number=number, about=about))
            left = []
            for place, reply in zip(waiting, consultation.ask(requests, on_progress), strict=True):
                if reply.text is None:
                    self.choices[place] = Choice(None, True, reply.error)
                    continue
                letter = reader(reply.text, answers.samples[place]["options"])
                self.choices[place] = Choice(letter, True)
                if letter is None:
                    left.append(place)
            waiting = left

    @property
    def settled(self) -> dict[int, Choice]:
        """Those that have a verdict."""
        return {place: choice for place, choice in self.choices.items() if not choice.error}

    @property
    def details(self) -> Line:
        """How many were read by whom, and who judged."""
        judged = [choice for choice in self.choices.values() if choice.judged]
        counts = {
            "by_rule": len(self.choices) - len(judged),
            "by_judge": sum(choice.letter is not None for choice in judged),
            "unread": sum(choice.letter is None for choice in self.settled.values()),
        }
        if self.consultation is None:
            return {"read": {**counts, "by_rule": counts["by_rule"] - counts["unread"]}}
        return {"read": counts, "judge": self.consultation.details}

    @property
    def notes(self) -> list[str]:
        return [] if self.consultation is None else self.consultation.notes

    @property
    def caveat(self) -> str:
        judged = self.details["read"]["by_judge"]
        if not judged or self.consultation is None:
            return ""
        return f"{judged} answers were read by {self.consultation.judge.title}"


def why(choice: Choice, answer: str) -> str:
    """Why a choice is wrong; empty if it is right."""
    if choice.letter == answer:
        return ""
    said = "cannot be read" if choice.letter is None else f"says {choice.letter}"
    by = " (a judge was asked)" if choice.judged else ""
    return f"{said}{by}, right is {answer}"


# -- rows of data files -------------------------------------------------------------------------


def cell(cells: Mapping[str, Any], *names: str) -> str:
    """The first cell of these columns that is there, as text; empty where none is."""
    for name in names:
        value = cells.get(name)
        if value is not None and str(value).strip() not in ("", "nan"):
            return str(value)
    return ""


def options_of(cells: Mapping[str, Any]) -> dict[str, str]:
    """The columns A, B, ... that hold something."""
    return {letter: text for letter in LETTERS if (text := cell(cells, letter))}


def checked(question: str, options: Options, answer: str) -> None:
    """Raises ValueError for a question that cannot be asked or scored."""
    if not question.strip():
        raise ValueError("there is no question")
    if len(options) < 2:
        raise ValueError(f"there must be two options at least, not {len(options)}")
    if not answer:
        raise ValueError("there is no answer; those of test splits are not published")
    if len(answer) != 1 or answer not in LETTERS:
        raise ValueError(f"the answer must be the letter of an option, not {answer!r}")


def without_right(samples: Sequence[Line]) -> int:
    """Questions whose right option has no text, as where "NA" was lost on the way; none can be right."""
    return sum(sample["answer"] not in sample["options"] for sample in samples if sample["options"])


def lost_note(lost: int) -> list[str]:
    """A sentence about them, if there are any."""
    if not lost:
        return []
    return [f"The right option of {lost} rows has no text in the data, so that none of them can be right."]


def some(values: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    """Different ones, at random."""
    return [values[place] for place in rng.permutation(len(values))[:count]]


# -- tables -------------------------------------------------------------------------------------


def shares_row(name: str, verdicts: Sequence[Line]) -> list[str]:
    """A name, its score with interval, and of how many."""
    found = share(verdicts)
    return [name, shown(found["score"]), shown_interval(found["interval"]), str(found["of"])]


def beside_report(benchmark: str, ours: Mapping[str, float | None], what: str) -> Table:
    """Several scores of ours, of 1, above the report's."""
    table = beside(benchmark, None, what)
    rows = [[f"this run, {name}" if name else "this run", shown(score)] for name, score in ours.items()]
    return Table(table.title, table.header, [*rows, *table.rows[1:]])
