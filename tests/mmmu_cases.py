"""Answers to MMMU's questions, the same on every machine: many near the edges of the rules.

`golden/mmmu.json` holds the verdicts of the official scorer on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.choice_cases import Pick, picker
from tests.choice_cases import answer as choice_answer
from tests.choice_cases import cases as choice_cases

GOLDS: tuple[str | list[str], ...] = (
    "24", "0.9965", "1.06", "-120", "2000000", "2,000,000", "30.0", "0.10", "1/64", "24/7", "6.333", "5",
    "0", "1e5", "C", "B", "a", "no", "embryonic", "Transformation", "MgS", "$x^2$", "Florida", "10 m",
    "nan", "inf", ["$MgS$", "MgS"], ["Tampa", "Florida"], ["24/7", "3.429"], ["C", "D"], ["1.0", "one"],
)  # fmt: skip
NUMBERS = (
    "24", "24.0", "24.004", "24.3", "240", "0.9965", "1.00", "1", "0.997", "1.06", "1.064", "-120", "120",
    "5-3", "2000000", "2,000,000", "2e6", "2E+6", "2 x 10^6", "2.0e-3", "30", "30.0", ".5", "0.5", "1,2,3",
    "1,234.5", "12,34", "1/64", "24/7", "3.43", "6.33", "6.3", "0", "0.001", "-0.0", "$24", "24%", "24kg",
    "24.5kg", "x2", "007", "1e400", "10 m", "10-20", "1_000", "٣", "24,", "24.5,",
)  # fmt: skip
WORDS = (
    "C", "c", "(C)", "B", "A", "a", "no", "not", "unknown", "embryonic", "EMBRYONIC", "transformation",
    "MgS", "$MgS$", "mgs", "Florida", "Tampa, Florida", "basic acid", "abc", "x^2", "$x^2$", "nan", "inf",
    "infinity", "one", "I don't know", "this", "also", "é", "ß", "İ", "",
)  # fmt: skip
FORMS = (
    "{}", "{}", "{}", "{}.", "The answer is {}", "The answer is {}.", "Answer: {}", "answer {}", "so {}",
    "is {}", "It could be {}", "x = {}", "x={}", "{} = {}", "Therefore {}", "Thus the final result is {}.",
    "{} is {}", "This is {}", "because {}", "{} or {}", "{}, {}", "{} and so on", "is :", "is .", "is ",
    "so is ", "result is '", "First, {}. Then {}", "First {}.\nThen {}", "{}\n{}", "\n{}\n",
    "The {}, which is {}, is right", "**{}**", "...", "Let me see. The answer is {}. So it is {}",
    "final answer {} ", "={}", "= {} =", "a = {}\nb = {}", "{}{}",
)  # fmt: skip
SUBJECTS = (
    "Art", "Music", "Accounting", "Economics", "Biology", "Math", "Physics", "Pharmacy", "Public_Health",
    "History", "Psychology", "Agriculture", "Computer_Science", "Energy_and_Power",
    "Mechanical_Engineering",
)  # fmt: skip


def choices(count: int) -> Iterator[tuple[str, dict[str, str]]]:
    """Answers with the options of their questions."""
    return choice_cases(count)


def opens(count: int) -> Iterator[tuple[str, str | list[str]]]:
    """Answers with what is expected."""
    rng, pick = picker(17)
    for _ in range(count):
        gold = pick(GOLDS)
        yield _open(gold, rng, pick), gold


def _open(gold: str | list[str], rng: Any, pick: Pick) -> str:
    def value() -> str:
        if rng.random() < 0.4:
            return str(gold if isinstance(gold, str) else pick(gold))
        return str(pick(NUMBERS if rng.random() < 0.6 else WORDS))

    parts = [pick(FORMS).format(value(), value()) for _ in range(1 if rng.random() < 0.7 else 2)]
    text = str(pick((" ", ". ", "\n", ", ")).join(parts))
    return text.upper() if rng.random() < 0.05 else text


def tables(count: int) -> Iterator[list[dict[str, Any]]]:
    """Whole sets of questions with an answer to each, over some of the subjects."""
    rng, pick = picker(19)
    for _ in range(count):
        table: list[dict[str, Any]] = []
        for subject in SUBJECTS:
            if rng.random() < 0.15:
                continue
            for number in range(1, 2 + int(rng.random() * 8)):
                row: dict[str, Any] = {"id": f"validation_{subject}_{number}"}
                if rng.random() < 0.25:
                    gold = pick(GOLDS)
                    row |= {"question_type": "open", "answer": gold, "response": _open(gold, rng, pick)}
                else:
                    options = dict(
                        zip(
                            "ABCD", pick((("a dog", "a cat", "an owl"), ("1", "2", "12", "21"))), strict=False
                        )
                    )
                    right = pick(list(options))
                    said = right if rng.random() < 0.5 else choice_answer(options, rng, pick)
                    row |= {
                        "question_type": "multiple-choice",
                        "answer": right,
                        "options": options,
                        "response": said,
                    }
                table.append(row)
        yield table
