"""Answers to multiple choice questions, the same on every machine: many near the edges of the rules.

`golden/mmbench.json` and `golden/seed.json` hold the verdicts of the published scorers on them.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Pick = Callable[[Sequence[Any]], Any]

TEXTS: tuple[tuple[str, ...], ...] = (
    ("a dog", "a cat"),
    ("A dog", "A cat", "An owl"),
    ("dog", "cat", "bird", "horse"),
    ("red", "red car", "red car door", "car"),  # nested
    ("cart", "car", "art", "carton"),
    ("yes", "no"),
    ("Yes.", "No.", "nan"),
    ("1", "2", "12", "21"),
    ("3", "30", "3.0", "0.3"),
    ("B", "A", "D", "C"),  # a picture of letters
    ("answer is B", "A and B", "None of the above", "All of the above"),
    ("the left side of the picture", "the right side of the picture", "above", "below"),
    ("one", "two", "three", "four", "five", "six"),
    ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX"),
    ("猫", "狗", "Straße", "é"),
    ("failed to obtain", "api", "sorry", "cannot"),
    ("$x^2$", "(a, b)", "[1, 2]", "{c}"),
    ("Z", "z"),
    ("vitamin A", "vitamin C", "vitamin D", "none"),
)
ANSWERS = (
    "{L}",
    "{L}",
    "{L}.",
    "({L})",
    "({L}).",
    "{L})",
    "{L}:",
    ":{L}",
    "**{L}**",
    "*{L}*",
    "[{L}]",
    "{{{L}}}",
    "#{L}",
    '"{L}"',
    "`{L}`",
    "{L}!",
    "{L}?",
    "{L}, {M}",
    "{L} and {M}",
    "{L} or {M}",
    "{L}/{M}",
    "{L} {M}",
    "{L}{M}",
    "{l}",
    "{l}.",
    "({l})",
    "{L}. {T}",
    "{L}: {T}",
    "({L}) {T}",
    "{L} {T}",
    "{T}",
    "{T}",
    "{T}.",
    "{t}",
    "{u}",
    "{T} or {U}",
    "It is {T}",
    "not {T} but {U}",
    "A {t}",
    "A {T}",
    "A",
    "I think {L}",
    "I think A and {L}",
    "The answer is {L}",
    "The answer is {L}.",
    "The correct answer is **{L}**.",
    "answer is {l}",
    "ANSWER IS {L}",
    "the answer  is\n{L}",
    "Answer: {L}",
    "Answer is: {L}",
    "The answer is {T}",
    "The answer is a {t}",
    "The answer is {L}, not {M}",
    "The answer is not {L}. The answer is {M}",
    "Option {L}",
    "Option {L} is right",
    "The correct option is ({L})",
    "{L} is right since the others are wrong",
    "{L} is wrong, {M} is right",
    "Of {L}, {M} and {N}, {L} is best",
    "A good reason to choose {L}",
    "Z",
    "Z.",
    "{L} Z",
    "Cannot determine the answer",
    "Cannot determine the answer, maybe {L}",
    "Sorry, I can't help with images of people yet.",
    "I can't process this file. {L}",
    "I'm sorry, but without the image provided I would say {L}",
    "Failed to obtain answer via API.",
    "Failed to obtain answer via API. {L}",
    "",
    " ",
    "\n{L}\n",
    "\t{L}",
    "{L}，{M}",
    "（{L}）",
    "答案是{L}",
    "Ａ",
    "É{L}",
    "\\boxed{{{L}}}",
    "$\\boxed{{{L}}}$",
    "nan",
    "None",
    "{L};",
    "{L};{M}",
    "'{L}'",
    "{L}'s",
    "Vitamin {L}",
)
FILLERS = (
    "because the picture shows it",
    "so",
    "Look at the picture.",
    "There is A dog and a cat in it.",
    "I see",
    "which is why",
    "the animal on the left is bigger than the one on the right of it",
    "hence",
    "(see above)",
    "1, 2, 3",
    "Let's think step by step.",
    "it",
)
NOISE = "ABCDEZabc .,:;!*()[]{}#'\"\n-"
CATEGORIES = (
    ("attribute_reasoning", "physical_property_reasoning"),
    ("attribute_reasoning", "function_reasoning"),
    ("coarse_perception", "image_scene"),
    ("finegrained_perception (instance-level)", "ocr"),
    ("finegrained_perception (cross-instance)", "spatial_relationship"),
    ("logic_reasoning", "future_prediction"),
    ("relation_reasoning", "social_relation"),
)


def picker(seed: int) -> tuple[random.Random, Pick]:
    """Only random() is promised to stay the same across versions of Python."""
    rng = random.Random(seed)
    return rng, lambda many: many[int(rng.random() * len(many))]


def fingerprint(cases: Any) -> str:
    """Of the cases themselves: whether they are those that the published scorers judged."""
    return hashlib.sha256(repr(cases).encode()).hexdigest()


def cases(count: int) -> Iterator[tuple[str, dict[str, str]]]:
    """Answers with the options of their questions, by letter."""
    rng, pick = picker(7)
    for _ in range(count):
        options = dict(zip("ABCDEFGHI", pick(TEXTS), strict=False))
        yield answer(options, rng, pick), options


def answer(options: dict[str, str], rng: random.Random, pick: Pick) -> str:
    if rng.random() < 0.05:
        return "".join(pick(NOISE) for _ in range(int(rng.random() * 12)))
    parts = [_piece(options, rng, pick)]
    while rng.random() < 0.35:
        part = pick(FILLERS) if rng.random() < 0.7 else _piece(options, rng, pick)
        parts.insert(0 if rng.random() < 0.5 else len(parts), part)
    return str(pick((" ", " ", ". ", "\n", ", ")).join(parts))


def _piece(options: dict[str, str], rng: random.Random, pick: Pick) -> str:
    letters = list(options) if rng.random() < 0.85 else list("ABCDEFZ")
    one, two, three = pick(letters), pick(letters), pick(letters)
    text, other = pick(list(options.values())), pick(list(options.values()))
    return str(
        pick(ANSWERS).format(
            L=one, M=two, N=three, l=one.lower(), T=text, t=text.lower(), u=text.upper(), U=other
        )
    )


Table = list[dict[str, Any]]


def circular_tables(count: int) -> Iterator[Table]:
    """Tables of MMBench with all rotations and an answer to each; good answers for the most part."""
    rng, pick = picker(11)
    for _ in range(count):
        table: Table = []
        for number in range(30):
            texts = pick([texts for texts in TEXTS if 2 <= len(texts) <= 4 and "nan" not in texts])
            l2, l3 = pick(CATEGORIES)
            gold, skill = int(rng.random() * len(texts)), rng.random()
            split, index = pick(("dev", "dev", "test")), 3 * number
            for turn in range(len(texts)):
                turned = [*texts[turn:], *texts[:turn]]
                options = dict(zip("ABCD", turned, strict=False))
                right = "ABCD"[(gold - turn) % len(texts)]
                said = right if rng.random() < 0.3 + 0.7 * skill else answer(options, rng, pick)
                table.append(
                    {"index": index + turn * 1_000_000, "question": f"Question {index}", **options}
                    | {"answer": right, "l2-category": l2, "category": l3, "split": split}
                    | {"prediction": said if said.strip() not in ("", "nan", "None") else "?"}
                )
        yield table


def seed_tables(count: int) -> Iterator[tuple[Table, dict[str, str]]]:
    """Questions of SEED-Bench's own form, and answers by the question's id; some have none."""
    rng, pick = picker(13)
    for _ in range(count):
        questions, answers = [], {}
        for number in range(60):
            kind = 1 + number % 12 if number < 12 else 1 + int(rng.random() * 12)
            right, name = pick("ABCD"), str(1000 + number) if rng.random() < 0.8 else f"v{number}"
            questions.append(
                {"question_id": name, "question": f"Question {number}", "answer": right}
                | {f"choice_{letter}": f"text {letter}" for letter in "abcd"}
                | {"question_type_id": kind, "data_type": "image" if kind < 10 else "video"}
            )
            said = (
                right if rng.random() < 0.5 else pick((f"{right}.", f" {right}", right.lower(), *"ABCDZ", ""))
            )
            if rng.random() < 0.95:
                answers[name] = said
        yield questions, answers


def base_rows(count: int = 60) -> Table:
    """Rows of a TSV file with questions in their first order alone."""
    rng, pick = picker(23)
    rows: Table = []
    for number in range(count):
        texts = pick([texts for texts in TEXTS if 2 <= len(texts) <= 4 and "nan" not in texts])
        options = {letter: texts[place] if place < len(texts) else "" for place, letter in enumerate("ABCD")}
        right = "ABCD"[int(rng.random() * len(texts))]
        rows.append({"index": 7 * number, "question": f"Question {number}", **options, "answer": right})
    return rows
