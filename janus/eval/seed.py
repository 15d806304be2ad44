"""SEED-Bench's questions about pictures: multiple choice, nine dimensions.

Source: Li et al., "SEED-Bench: Benchmarking Multimodal LLMs with Generative Comprehension", github.com/
AILab-CVC/SEED-Bench (commit 991e849).  Its script ranks the options by their likelihood.  Here the model
answers in words, as in VLMEvalKit, with which the numbers of Janus were made; mode `official` is that rule.
`choices` reads answers, docs/evaluation.md explains.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import ClassVar

from janus.data.scenes import COLOURS, RELATIONS
from janus.data.wording_en import NUMBERS, describe, plural
from janus.eval.benchmark import Answers, Counts, Line, Progress, Scored, Table
from janus.eval.choices import OTHERS, READERS
from janus.eval.choosing import (
    LETTERS,
    Choosing,
    MultipleChoice,
    beside_report,
    cell,
    checked,
    lost_note,
    options_of,
    shares_row,
    some,
    why,
    without_right,
)
from janus.eval.fixtures import FixtureScene
from janus.eval.tables import Row
from janus.eval.tallies import share, shown, tally

DIMENSIONS = (  # 1 to 9; 10 to 12 are about films
    "Scene Understanding",
    "Instance Identity",
    "Instance Attributes",
    "Instance Location",
    "Instances Counting",
    "Spatial Relation",
    "Instance Interaction",
    "Visual Reasoning",
    "Text Understanding",
)
_PLAIN = {name.lower(): name for name in DIMENSIONS}


class Seed(MultipleChoice):
    """The benchmark.

    judge: who is asked about answers that the rules cannot read; None: they count as wrong.
    """

    name: ClassVar[str] = "seed"
    files: ClassVar[Mapping[str, str]] = {
        "68017231464752261a2526d6ca3a10c0": "VLMEvalKit's SEEDBench_IMG.tsv"
    }
    accepts: ClassVar[Sequence[str]] = ("SEED-Bench.json", "SEEDBench_IMG.tsv", "test-*.parquet")

    def sample(self, row: Row) -> Line:
        """Of SEED-Bench.json, lmms-lab's parquet or VLMEvalKit's TSV."""
        cells = row.cells
        choices = {letter: cell(cells, f"choice_{letter.lower()}") for letter in "ABCD"}
        options = {letter: text for letter, text in choices.items() if text} or options_of(cells)
        question, answer = cell(cells, "question"), cell(cells, "answer").strip()
        checked(question, options, answer)
        name = cell(cells, "question_id", "index")
        if not name:
            raise ValueError("there is neither a question_id nor an index")
        data = cell(cells, "data_id")
        return {
            "id": name,
            "question": question,
            "options": options,
            "answer": answer,
            "dimension": _dimension(cells),
            "pictures": row.pictures[:1] or ([row.picture(data)] if data else []),
        }

    def chosen(self, rows: Sequence[Row], source: Path) -> Sequence[Row]:
        """Those about pictures alone; data sets with all questions have those about films, too."""
        for number, row in enumerate(rows):
            row.number = number
        return [row for row in rows if not _about_film(row)]

    def score(self, answers: Answers, on_progress: Progress | None = None) -> Scored:
        """The share of right answers, overall and by dimension."""
        places = list(range(len(answers.samples)))
        chosen = Choosing(answers, places, READERS[self.mode], self.judge, on_progress)
        verdicts = [self._verdict(answers, chosen, place) for place in chosen.settled]
        answered = sum(answers.text(place) is not None for place in places)
        read = sum(choice.letter is not None for choice in chosen.settled.values())
        expected = Counter(sample["dimension"] for sample in answers.samples)
        found = tally(verdicts, "dimension")
        whole = {name for name, one in found.items() if one["of"] == expected[name]}
        order = [*DIMENSIONS, *sorted(expected.keys() - set(DIMENSIONS))]
        overall = share(verdicts) if len(verdicts) == len(places) else {"score": None, "interval": None}
        scores: dict[str, float | None] = {"overall": overall["score"]}
        scores |= {name: found[name]["score"] if name in whole else None for name in order if expected[name]}
        details: Line = {
            "overall_interval": overall["interval"],
            "dimensions": {
                name: found[name] | {"expected": expected[name]} for name in order if name in found
            },
            "without_right_option": without_right(answers.samples),
        }
        return Scored(
            scores=scores,
            counts=Counts("question", len(places), answered, read, len(verdicts)),
            verdicts=verdicts,
            details=details | chosen.details,
            caveat=self.caveat(
                answers,
                chosen.caveat,
            ),
            tables=[
                _dimensions(verdicts, order),
                _others(answers, chosen),
                beside_report("seed", {"": scores["overall"]}, "SEED-Bench, pictures"),
            ],
            notes=[
                "The official script ranks options by their likelihood; such numbers are of another kind.",
                *lost_note(details["without_right_option"]),
                *chosen.notes,
            ],
        )

    def _verdict(self, answers: Answers, chosen: Choosing, place: int) -> Line:
        sample, choice = answers.samples[place], chosen.choices[place]
        return self.verdict(
            answers,
            place,
            read=choice.letter,
            expected=sample["answer"],
            score=float(choice.letter == sample["answer"]),
            reason=why(choice, sample["answer"]),
            tags={"dimension": sample["dimension"]},
            cluster=sample["pictures"][0] if sample["pictures"] else "",
        )

    def fixture(self, scenes: Sequence[FixtureScene]) -> list[Line]:
        """Rows of VLMEvalKit's TSV: a question about each scene, of the dimension that it is made for."""
        rows: list[Line] = []
        for one in scenes:
            question, right, wrong, dimension = _about(one, scenes)
            order = list(one.rng(2).permutation(4))
            rows.append(
                {
                    "index": one.number,
                    "image": one.base64,
                    "question": question,
                    **dict(zip(LETTERS, ([right, *wrong][place] for place in order), strict=False)),
                    "answer": LETTERS[order.index(0)],
                    "category": dimension,
                }
            )
        return rows


def _about_film(row: Row) -> bool:
    kind = str(row.cells.get("question_type_id", ""))
    return row.cells.get("data_type") == "video" or (kind.isdigit() and int(kind) > len(DIMENSIONS))


def _dimension(cells: Mapping[str, object]) -> str:
    """By its number or its name.  Raises ValueError for one that there is not."""
    number, name = cell(cells, "question_type_id"), cell(cells, "category")
    if number:
        if number.isdigit() and 1 <= int(number) <= len(DIMENSIONS):
            return DIMENSIONS[int(number) - 1]
        raise ValueError(f"question_type_id must be from 1 to {len(DIMENSIONS)}, not {number!r}")
    plain = name.replace("_", " ").lower()
    if plain not in _PLAIN:
        raise ValueError(f"category must be one of {', '.join(DIMENSIONS)}, not {name!r}")
    return _PLAIN[plain]


def _dimensions(verdicts: Sequence[Line], order: Sequence[str]) -> Table:
    rows = [shares_row("overall", verdicts)]
    for name in order:
        if of := [line for line in verdicts if line["tags"]["dimension"] == name]:
            rows.append(shares_row(name, of))
    return Table("", ("", "accuracy", "95 %", "questions"), rows)


def _others(answers: Answers, chosen: Choosing) -> Table:
    """The same answers by every rule, so that a number from elsewhere finds its like."""
    named = {"VLMEvalKit (official)": READERS["official"], "mended (fixed)": READERS["fixed"], **OTHERS}
    rows = []
    for name, rule in named.items():
        right, unread = [], 0
        for place in chosen.settled:
            sample = answers.samples[place]
            letter = rule(answers.text(place) or "", sample["options"])
            unread += letter is None
            right.append(letter == sample["answer"])
        rows.append([name, shown(fmean(right) if right else None), str(unread)])
    title = "The same answers, read by others' rules"
    return Table(title, ("read by", "accuracy", "not read"), rows)


def _about(one: FixtureScene, scenes: Sequence[FixtureScene]) -> tuple[str, str, list[str], str]:
    """A question, the right option, three wrong ones, and the dimension."""
    facts, rng = one.facts, one.rng()
    name, count = next(iter(facts.counts.items()))
    kind = one.scene.kind
    if kind == "position" and facts.pairs:
        thing, where, other = facts.pairs[0]
        wrong = [f"{relation} the {other}" for relation in RELATIONS if relation != where]
        return f"Where is the {thing}?", f"{where} the {other}", wrong, "Spatial Relation"
    if kind == "counting":
        wrong = some([number for number in NUMBERS[1:] if number != NUMBERS[count]], 3, rng)
        return f"How many {plural(name)} are in the image?", NUMBERS[count], wrong, "Instances Counting"
    if kind in ("colors", "color_attr") and facts.uniform:
        thing, colour = next(iter(facts.uniform.items()))
        wrong = some([other for other in COLOURS if other != colour], 3, rng)
        return f"What is the color of the {thing}?", colour, wrong, "Instance Attributes"
    if kind == "two_object":
        right = describe(facts)
        others = sorted({describe(other.facts) for other in scenes} - {right})
        return "What is shown in the image?", right, some(others, 3, rng), "Scene Understanding"
    wrong = []
    while len(wrong) < 3:
        absent = facts.absent(rng)
        wrong += [absent] if absent not in wrong else []
    return "Which of these is in the image?", name, wrong, "Instance Identity"
