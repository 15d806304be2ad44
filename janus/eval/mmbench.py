"""MMBench (dev, English, version 1.0): multiple choice, each question in all rotations of its options.

A question is right if it is right in every rotation: circular accuracy, which is `overall`.  Plain accuracy,
of the questions in their first order and of all rows, stands beside it.  Source: Liu et al., "MMBench: Is
Your Multi-modal Model an All-around Player?"; its scorer is github.com/open-compass/VLMEvalKit (commit
e8e78f0).  `choices` reads answers, docs/evaluation.md explains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from janus.data.scenes import COLOURS, RELATIONS
from janus.data.wording_en import NUMBERS, plural
from janus.eval.benchmark import Answers, Counts, Item, Line, Progress, Scored
from janus.eval.choices import READERS
from janus.eval.choosing import LETTERS, Choosing, MultipleChoice, cell, checked, options_of, some, why
from janus.eval.fixtures import FixtureScene
from janus.eval.mmbench_scores import notes, scores_of, tables
from janus.eval.tables import Row

TURN = 1_000_000  # what a rotation's index is larger than the one before


class MMBench(MultipleChoice):
    """The benchmark.

    judge: who is asked about answers that the rules cannot read; None: they count as wrong.
    """

    name: ClassVar[str] = "mmbench"
    published_by: ClassVar[str] = "VLMEvalKit's"
    files: ClassVar[Mapping[str, str]] = {
        "b6caf1133a01c6bb705cf753bb527ed8": "VLMEvalKit's MMBench_DEV_EN.tsv"
    }
    accepts: ClassVar[Sequence[str]] = (
        "MMBench_DEV_EN.tsv",
        "mmbench_dev_en_*.tsv",
        "mmbench_dev_2*.tsv",
        "dev-*.parquet",
    )
    # -- data

    def sample(self, row: Row) -> Line:
        """Of VLMEvalKit's TSV or lmms-lab's parquet."""
        cells = row.cells
        question, options, answer = cell(cells, "question"), options_of(cells), cell(cells, "answer").strip()
        checked(question, options, answer)
        index = _whole(cell(cells, "index"), "index")
        return {
            "id": str(index),
            "index": index,
            "group": _whole(cell(cells, "g_index"), "g_index") if cell(cells, "g_index") else index % TURN,
            "question": question,
            "hint": cell(cells, "hint"),
            "options": options,
            "answer": answer,
            "category": cell(cells, "category") or "none",
            "l2": cell(cells, "l2-category", "L2-category") or "none",
            "split": cell(cells, "split") or "none",
            "pictures": row.pictures[:1],
        }

    def completed(self, lines: Sequence[Line], rows: Sequence[Row]) -> tuple[Line, ...]:
        """Where no question is rotated, the rotations are added."""
        if _rotated(lines) or any(cell(row.cells, "g_index") for row in rows):
            return tuple(lines)
        return rotations(lines)

    def check(self, lines: Sequence[Line]) -> Iterator[str]:
        """Questions without some of their rotations, in a file that has rotations."""
        if not _rotated(lines):
            return
        for group, rows in _groups(lines).items():
            if not any(line["index"] == group for line in rows):
                yield f"question {group} has rotations, but not its first order"
            elif len(rows) < max(len(line["options"]) for line in rows):
                yield f"question {group} has {len(rows)} of its {len(rows[0]['options'])} rotations"

    def group(self, sample: Line) -> str:
        return str(sample["group"])

    # -- scores

    def score(self, answers: Answers, on_progress: Progress | None = None) -> Scored:
        """Every question of which all rows are answered.  Questions are counted, not rows."""
        places = list(range(len(answers.samples)))
        chosen = Choosing(answers, places, READERS[self.mode], self.judge, on_progress)
        groups: dict[str, list[int]] = {}
        for place in places:
            groups.setdefault(self.group(answers.samples[place]), []).append(place)
        whole = [of for of in groups.values() if all(place in chosen.settled for place in of)]
        verdicts = [self._verdict(answers, chosen, of) for of in whole]
        answered = sum(all(answers.text(place) is not None for place in of) for of in groups.values())
        parsed = sum(all(chosen.choices[place].letter is not None for place in of) for of in whole)
        scores, details = scores_of(answers, chosen, verdicts, len(groups), self.mode)
        return Scored(
            scores=scores,
            counts=Counts("question", len(groups), answered, parsed, len(verdicts)),
            verdicts=verdicts,
            details=details | chosen.details,
            caveat=self.caveat(
                answers,
                "" if len(groups) < len(places) else "no rotations, so that this is plain accuracy",
                chosen.caveat,
            ),
            tables=tables(answers, chosen, scores, details, verdicts),
            notes=[*notes(details), *chosen.notes],
        )

    def _verdict(self, answers: Answers, chosen: Choosing, places: Sequence[int]) -> Line:
        """Of one question: shows its first order, or the first rotation that is wrong."""
        places = sorted(places, key=lambda place: answers.samples[place]["index"])
        samples = {place: answers.samples[place] for place in places}
        read = {place: chosen.choices[place].letter for place in places}
        wrong = [place for place in places if read[place] != samples[place]["answer"]]
        place = wrong[0] if wrong else places[0]
        sample = samples[place]
        turn = f"rotation {places.index(place)} of {len(places)}: " if len(places) > 1 else ""
        line = self.verdict(
            answers,
            place,
            read=read[place],
            expected=sample["answer"],
            score=float(not wrong),
            reason=turn + why(chosen.choices[place], sample["answer"]) if wrong else "",
            tags={"l2": sample["l2"], "category": sample["category"], "split": sample["split"]},
            cluster=samples[places[0]]["pictures"][0] if samples[places[0]]["pictures"] else "",
        )
        first = {"item": Item(places[0], 0).key, "id": samples[places[0]]["id"]}
        return line | first | {"rows": len(places), "rows_right": len(places) - len(wrong)}

    # -- the embedded world

    def fixture(self, scenes: Sequence[FixtureScene]) -> list[Line]:
        """Rows of VLMEvalKit's TSV: a question about each scene of the first half, in all rotations."""
        rows: list[Line] = []
        for one in scenes[: (len(scenes) + 1) // 2]:
            question, right, wrong, l2, category = _about(one)
            order = one.rng(1).permutation(len(wrong) + 1)
            options = [[right, *wrong][place] for place in order]
            rows.append(
                {
                    "index": one.number + 1,
                    "question": question,
                    "hint": "",
                    **dict(zip(LETTERS, options, strict=False)),
                    "answer": LETTERS[list(order).index(0)],
                    "category": category,
                    "l2-category": l2,
                    "split": "dev",
                    "source": "janus",
                    "image": one.base64,
                }
            )
        columns = ["index", "question", "hint", *"ABCD", "answer", "category", "l2-category", "split"]
        every = [row | _turned(row, turn) for turn in range(4) for row in rows if turn < len(options_of(row))]
        return [{name: row.get(name, "") for name in (*columns, "source", "image")} for row in every]


def rotations(lines: Sequence[Line]) -> tuple[Line, ...]:
    """The lines and all rotations of their options, as `vlmutil circular` makes them (VLMEvalKit, tools.py).

    All first orders come first.  Options that hold letters of options, or whose question has an answer that
    is none of them, are not rotated.
    """
    turned = list(lines)
    for turn in range(1, max(len(line["options"]) for line in lines)):
        for line in lines:
            if turn < len(line["options"]) and not _names_letters(line["options"]) and _gapless(line):
                index = line["index"] + turn * TURN
                turned.append(line | {"index": index, "id": str(index), **_moved(line, turn)})
    return tuple(turned)


def _moved(line: Line, turn: int) -> Line:
    """Options and answer moved up by `turn` letters, the first to the end."""
    letters = list(line["options"])
    moved = {letters[place - turn]: text for place, text in enumerate(line["options"].values())}
    answer = letters[letters.index(line["answer"]) - turn]
    return {"options": {letter: moved[letter] for letter in letters}, "answer": answer}


def _gapless(line: Line) -> bool:
    letters = list(line["options"])
    return letters == list(LETTERS[: len(letters)]) and line["answer"] in letters


def _names_letters(options: Mapping[str, str]) -> bool:
    """Whether an option is a letter, or has several of the letters of options in it, as in "A and B"."""
    for text in options.values():
        plain = "".join(c if c in LETTERS or c in LETTERS.lower() else " " for c in text)
        if text in LETTERS or len(set(plain.split()) & options.keys()) > 1:
            return True
    return False


def _turned(row: Line, turn: int) -> Line:
    """A rotation of a fixture's row, its picture named by the row that has it."""
    if not turn:
        return {}
    moved = _moved({"options": options_of(row), "answer": row["answer"]}, turn)
    return {
        "index": row["index"] + turn * TURN,
        "image": row["index"],
        "answer": moved["answer"],
        **moved["options"],
    }


def _rotated(lines: Sequence[Line]) -> bool:
    return any(line["index"] != line["group"] for line in lines)


def _groups(lines: Sequence[Line]) -> dict[int, list[Line]]:
    groups: dict[int, list[Line]] = {}
    for line in lines:
        groups.setdefault(line["group"], []).append(line)
    return groups


def _whole(text: str, column: str) -> int:
    """Raises ValueError for what is no whole number; 17.0 is one."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if number < 0 or number != int(number):
        raise ValueError(f"{column} must be a whole number from 0, not {text!r}")
    return int(number)


def _about(one: FixtureScene) -> tuple[str, str, list[str], str, str]:
    """A question, the right option, wrong ones, and the two abilities that it asks for."""
    facts, rng = one.facts, one.rng()
    instance, cross = "finegrained_perception (instance-level)", "finegrained_perception (cross-instance)"
    if facts.pairs:
        name, where, other = facts.pairs[0]
        wrong = [f"{relation} the {other}" for relation in some([r for r in RELATIONS if r != where], 3, rng)]
        return f"Where is the {name}?", f"{where} the {other}", wrong, cross, "spatial_relationship"
    name, count = next(iter(facts.counts.items()))
    if count > 1:
        wrong = some([number for number in NUMBERS[1:] if number != NUMBERS[count]], 2, rng)
        return f"How many {plural(name)} are there?", NUMBERS[count], wrong, instance, "object_localization"
    if facts.uniform:
        name, colour = next(iter(facts.uniform.items()))
        wrong = some([other for other in COLOURS if other != colour], 3, rng)
        return f"What color is the {name}?", colour, wrong, instance, "attribute_recognition"
    wrong = [facts.absent(rng)]
    return "Which of these is in the picture?", name, wrong, instance, "object_localization"
