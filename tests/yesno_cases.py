"""Answers to yes-or-no questions and to GQA's, the same on every machine: many near the edges of the rules.

`golden/pope.json`, `golden/mme.json` and `golden/gqa.json` hold what the official scorers, VLMEvalKit and
lmms-eval made of them.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from typing import Any

SPLITS = ("random", "popular", "adversarial")
PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
STRUCTURAL = ("query", "verify", "logical", "choose", "compare")
SEMANTIC = ("rel", "attr", "obj", "cat", "global")

PLAIN = ("Yes", "yes", "No", "no", "Yes.", "No.", "Yes, there is a cat.", "No, there is no cat in the image.")
BY_HAND = (
    "", " ", ".", "Yes!", "No!", "YES", "NO", "Not", "not", "**Yes**", "**No**", "*no*", "'no'", "yes no",
    "no yes", "Yes.No", "No.Yes", ". No", "Yes\nNo", "No\n", "\nNo", "no,", ",no", "n,o", "y,es", "Y", "N",
    "y.", "n.", "I know", "know", "None", "nothing", "There is not a cat", "There is a cat", "not present",
    "The cat is not present.", "yes or no", "Yes/No", "Answer: yes", "Answer: no", "A: no", "  yes",
    "   no", "    no", "    yes", "-no", "(no)", "[yes]", "yes-no", "yes -no", "yes_no", "1,000 yes-no",
    "3.5 no", "no.5", "5.no", "." * 31 + "no", "." * 32 + "no", "." * 33 + "yes", "no" + "." * 40, "nо",
    "Ｙｅｓ", "yes，no", "不", "是", "yes\u00a0no", "no\u3000", "NO\u200b", "YESſ", "İyes", "ſno", "yes  no",
    "is  no", "a  not  b", "no\tyes", "eyes", "yesterday", "noon", "snow", "yesyes", "nono",
)  # fmt: skip
_WORDS = (
    "Yes", "yes", "YES", "No", "no", "NO", "not", "Not", "Yes", "No", "know", "None", "nope", "yeah",
    "present", "is", "there", "a", "the", "cat", "image", "n't", "y", "n", "yesno", "eyes", "not present",
    "1,000", "2.5", "Ｎｏ", "sí", "İ",
)  # fmt: skip
_JOINTS = (
    *[" "] * 20, "  ", ". ", ".", ", ", ",", " - ", "-", "/", "! ", "!", "? ", "\n", "\t", "; ", ": ",
    "...", "_", "…", "\u00a0", "(", ")", "\"", "'", "*", "`", "\\", "@", "=", " >",
)  # fmt: skip
_AROUND = (
    ("", ""), ("", "."), (" ", ""), ("  ", ""), ("**", "**"), ('"', '"'), ("(", ")"), ("", "!"), ("", "\n"),
    ("[", "]"), (".", ""), ("\n", ""), ("`", "`"), ("   ", " "), ("", "..."), ("<", ">"), ("A: ", ""),
)  # fmt: skip
_GOLD = (
    "yes", "no", "left", "right", "baseball bat", "t-shirt", "bed", "blue", "chair", "parking meter", "10",
    "a.m", "fire hydrant", "skateboard", "bedroom", "woman", "stop sign", "wii controller", "light blue",
    "o'clock",
)  # fmt: skip


class Draws:
    """Choices from a seed; only random() is promised to stay the same across versions of Python."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def share(self) -> float:
        return self._rng.random()

    def pick(self, many: Any) -> Any:
        return many[int(self._rng.random() * len(many))]


def answers(count: int) -> Iterator[str]:
    """Those by hand, then made-up ones."""
    yield from BY_HAND[:count]
    draws = Draws(7)
    for _ in range(count - len(BY_HAND)):
        yield _made_up(draws)


def _made_up(draws: Draws) -> str:
    text = draws.pick(_WORDS)
    while draws.share() < 0.75:
        text += draws.pick(_JOINTS) + draws.pick(_WORDS)
    before, after = draws.pick(_AROUND)
    return f"{before}{text}{after}"


def told(label: str, skill: float, odd: float, draws: Draws) -> str:
    """An answer in one line: right with the chance `skill`, made up with the chance `odd`."""
    if draws.share() < odd:
        return " ".join(_made_up(draws).replace("\t", " ").replace("\n", " ").split("\r"))
    wanted = label.lower() if draws.share() < skill else "no" if label.lower() == "yes" else "yes"
    return str(draws.pick([one for one in PLAIN if one.lower().startswith(wanted)]))


def pope_runs() -> Iterator[list[dict[str, str]]]:
    """Whole benchmarks: questions with `split`, `image`, `label` and `answer`, file after file."""
    draws = Draws(11)
    for skill, odd in ((0.9, 0.0), (0.8, 0.3), (0.5, 1.0), (0.7, 0.1), (0.0, 0.0), (1.0, 0.0)):
        run = []
        for split in SPLITS:
            for number in range(120):
                label = "yes" if number % 2 == 0 else "no"
                image = f"COCO_val2014_{number // 6:012d}.jpg"
                answer = told(label, skill, odd, draws)
                run.append({"split": split, "image": image, "label": label, "answer": answer})
        yield run
    yield [one | {"answer": "No."} for one in run]
    yield [one | {"answer": "Yes."} for one in run]


def mme_runs() -> Iterator[list[dict[str, str]]]:
    """Whole benchmarks: questions with `subtask`, `image`, `question`, `label` and `answer`, in pairs."""
    draws = Draws(13)
    for skill, odd in ((0.9, 0.0), (0.8, 0.3), (0.5, 1.0), (0.7, 0.1), (1.0, 0.0)):
        run = []
        for place, subtask in enumerate((*PERCEPTION, *COGNITION)):
            for number in range(10 + place):
                for label in draws.pick((("Yes", "No"), ("No", "Yes"))):
                    question = f"Is it {label}, number {number}? Please answer yes or no."
                    line = {
                        "subtask": subtask,
                        "image": f"{number:04d}.jpg",
                        "question": question,
                        "label": label,
                    }
                    run.append(line | {"answer": told(label, skill, odd, draws)})
        yield run


def short_answers(count: int) -> Iterator[tuple[str, str]]:
    """What is right, and what was said."""
    draws = Draws(17)
    for _ in range(count):
        gold = draws.pick(_GOLD)
        yield gold, _said(gold, draws)


def _said(gold: str, draws: Draws) -> str:
    text = (
        gold if draws.share() < 0.75 else draws.pick((*_GOLD, "", "the left", "bat", "blues", "ten", "10.0"))
    )
    while draws.share() < 0.6:
        text = draws.pick((
            text.upper(), text.capitalize(), f"{text}.", f"{text}..", f" {text}", f"{text} ", f"{text}\n",
            f"**{text}**", f'"{text}"', f"the {text}", text.replace(" ", "  "), text.replace("-", ""),
            text.replace("-", " "), f"{text}!", f"{text}, ", f"a {text}", f"\t{text}", f"{text}\u00a0",
            f"({text})", f"{text}?", text.replace("e", "é"),
        ))  # fmt: skip
    return str(text)


def gqa_runs() -> Iterator[list[dict[str, Any]]]:
    """Whole benchmarks: the official file's questions, each with its `answer` and what was `said`."""
    draws = Draws(19)
    for plain in (True, False):
        run = []
        for number in range(400):
            gold, structural = draws.pick(_GOLD), draws.pick(STRUCTURAL)
            said = draws.pick((gold, gold, draws.pick(_GOLD))) if plain else _said(gold, draws)
            steps = [{"operation": "select", "argument": "cat (1)"}] * (1 + int(draws.share() * 4))
            last = draws.pick(("query: name", "exist", "choose name", "query: color", "verify rel"))
            steps.append({"operation": last.split(":")[0], "argument": last.rpartition(": ")[2]})
            run.append({
                "id": f"{number:06d}", "imageId": f"n{number // 8}", "isBalanced": draws.share() < 0.9,
                "answer": gold, "question": " ".join(["word"] * (3 + int(draws.share() * 6))) + "?",
                "semantic": steps,
                "types": {"structural": structural, "semantic": draws.pick(SEMANTIC), "detailed": "d"},
                "groups": {"global": draws.pick(("thing", "color", "place", None)), "local": "l"},
                "said": said,
            })  # fmt: skip
        yield run


def fingerprint(cases: Any) -> str:
    """Of the inputs, so that a golden table is not read beside others."""
    return hashlib.sha256(json.dumps(list(cases), ensure_ascii=False).encode()).hexdigest()
