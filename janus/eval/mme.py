"""MME: fourteen subtasks of perception and cognition; of each picture one question is to be denied, one not.

A subtask has 100 points for questions that are right and 100 for pictures of which both are; perception sums
ten subtasks, cognition four.  Source: Fu et al., "MME: A Comprehensive Evaluation Benchmark for Multimodal
Large Language Models", eval_tool.zip of github.com/BradyFU/Awesome-Multimodal-Large-Language-Models (branch
Evaluation, commit dd29509).  `yesno` reads answers, `mme_scores` counts, docs/evaluation.md explains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from janus.data.facts import OPPOSITE
from janus.data.wording import article, plural
from janus.data.wording_en import NUMBERS
from janus.eval import yesno
from janus.eval.benchmark import Answers, Counts, Line, Progress, Scored
from janus.eval.fixtures import FixtureScene
from janus.eval.mme_scores import RULES, SUBTASKS, notes, scores_of, tables
from janus.eval.profiles import Form
from janus.eval.tables import Row
from janus.eval.understanding import Understanding

# What the fixture asks in subtasks whose pictures the embedded world does not have: of a thing, of a number.
_OF_A_THING = {
    "posters": "Is this a poster of {}?",
    "celebrity": "Is what is shown here called {}?",
    "scene": "Does this image show a scene with {}?",
    "landmark": "Is this a photo of {}?",
    "artwork": "Does this artwork show {}?",
    "OCR": "Is {} among the things in the image?",
    "commonsense_reasoning": "Should I look here if I am looking for {}?",
    "text_translation": "Is it appropriate to translate what is shown into English as {}?",
}
_OF_A_NUMBER = {
    "numerical_calculation": "Is the number of things in the image plus one {}?",
    "code_reasoning": "Would a program that counts the things in the image and adds one print {}?",
}
# MD5 of the lists in Your_Results, in the order of `SUBTASKS`.
_LISTS = (
    "1d6265d2e19af6d2f9e66714c62c3471",
    "9038f65261a6d6327ec9f8c7c07e457a",
    "0d754b752e4427db3d28a4b6d0b2002f",
    "16bd22ed90789a1e26f0ce2f5b6be470",
    "3d02405a82b811c076db80c72110c0e6",
    "5c228129e7cbb20ea6a9e426706a29e3",
    "05249c2895266cac2f3ea5819493118d",
    "d6f454851d02b1e86054b70ac0865f6d",
    "b3642c4ea1836224ed4fd67955282793",
    "74456af17b0c52eb44dbc113a0c15fd6",
    "9b8a5431af5d6b2c5cf5843ee76d751c",
    "b91a5c8d3165bbb88ec7ccd201a0504d",
    "1f6df8c0b268ef78e885a1120b295f12",
    "8b60ff01620a1b3fe343b6e91edf6ec6",
)


class MME(Understanding):
    """The benchmark."""

    name: ClassVar[str] = "mme"
    published_by: ClassVar[str] = "the official ones"
    files: ClassVar[Mapping[str, str]] = {
        "b36b43c3f09801f5d368627fb92187c3": "VLMEvalKit's MME.tsv"
    } | dict.fromkeys(_LISTS, "the lists of MME's evaluation tool")
    accepts: ClassVar[Sequence[str]] = ("MME.tsv", "test-*.parquet", "*.txt")
    form: ClassVar[Form] = "yes-no"

    def sample(self, row: Row) -> Line:
        """Of the eval tool's text files, the release's, VLMEvalKit's TSV or lmms-lab's parquet."""
        cells = _from_text(row.cells) if "text" in row.cells else row.cells
        subtask, question = cells.get("category"), str(cells.get("question") or "")
        if subtask not in SUBTASKS:
            raise ValueError(f"the subtask must be one of {', '.join(SUBTASKS)}, not {subtask!r}")
        if not question:
            raise ValueError("there is no question")
        named = cells.get("image_path") or cells.get("question_id") or (row.pictures or [""])[0]
        image = Path(str(named)).stem
        if not image:
            raise ValueError("there is no image_path or question_id that tells which questions are a pair")
        return {
            "id": f"{subtask}/{image}: {question.removesuffix(yesno.REQUEST)}",
            "question": question,
            "answer": yesno.label(cells.get("answer")),
            "subtask": subtask,
            "image": image,
            "pictures": row.pictures[:1] or _beside(row, subtask, str(named)),
        }

    def check(self, lines: Sequence[Line]) -> Iterator[str]:
        """Pictures that have not two questions in a subtask."""
        pairs: dict[str, int] = {}
        for line in lines:
            pairs[self.group(line)] = pairs.get(self.group(line), 0) + 1
        for pair, count in pairs.items():
            if count != 2:
                yield f"{pair} has {count} question{'s' if count > 1 else ''}, not a pair"

    def lacking(self, lines: Sequence[Line]) -> Iterator[str]:
        there = {line["subtask"] for line in lines}
        yield from (subtask for subtask in SUBTASKS if subtask not in there)

    def group(self, sample: Line) -> str:
        """The pair."""
        return f"{sample['subtask']}/{sample['image']}"

    def score(self, answers: Answers, on_progress: Progress | None = None) -> Scored:
        """Points of each subtask and their sums, None where an answer or a subtask is missing."""
        verdicts = list(self._verdicts(answers))
        read = sum(line["read"] is not None for line in verdicts)
        lacking = list(self.lacking(answers.samples))
        expected = [(sample["subtask"], self.group(sample)) for sample in answers.samples]
        scores, details = scores_of(verdicts, expected)
        details["lacking"] = lacking
        return Scored(
            scores=scores,
            counts=Counts("question", len(answers.samples), len(verdicts), read, len(verdicts)),
            verdicts=verdicts,
            details=details,
            caveat=self.caveat(
                answers,
                f"without {', '.join(lacking)}" if lacking else "",
            ),
            tables=tables(scores, details, verdicts),
            notes=notes(lacking),
        )

    def _verdicts(self, answers: Answers) -> Iterator[Line]:
        for place, sample in enumerate(answers.samples):
            text = answers.text(place)
            if text is None:
                continue
            read, right = RULES[self.mode](text), sample["answer"]
            line = self.verdict(
                answers,
                place,
                read=read,
                expected=right,
                score=float(read == right),
                reason=yesno.reason(read, right),
                tags={"subtask": sample["subtask"]},
                cluster=(sample["pictures"] or [sample["image"]])[0],
            )
            yield line | {"pair": self.group(sample)}

    def fixture(self, scenes: Sequence[FixtureScene]) -> list[Line]:
        """Rows of VLMEvalKit's TSV, two pairs about each scene.

        One is of existence, count, position or color, as the scene allows.  The other is of one of the ten
        other subtasks in turn: in name alone, since the embedded world has no films, landmarks or code.
        """
        rows: list[Line] = []
        others = [*_OF_A_THING, *_OF_A_NUMBER]
        for one in scenes:
            for subtask, asked in (_own(one), _other(one, others[one.number % len(others)])):
                for answer, question in zip(("Yes", "No"), asked, strict=True):
                    rows.append({
                        "index": len(rows),
                        "image": one.base64,
                        "question": f"{question}{yesno.REQUEST}",
                        "answer": answer,
                        "category": subtask,
                        "image_path": f"{subtask}/{one.number:04d}.png",
                    })  # fmt: skip
        return rows


def _from_text(cells: Line) -> Line:
    """A line of a text file: image, question, answer in the eval tool's; question and answer in the
    release's, where the picture is named like the file.  Raises ValueError for others."""
    parts = [part.strip() for part in str(cells["text"]).split("\t")]
    match parts:
        case [image, question, answer]:
            return {"category": cells["file"], "image_path": image, "question": question, "answer": answer}
        case [question, answer]:
            named = {"image_path": cells["file"], "question": question, "answer": answer}
            return {"category": _folder(cells), **named}
        case [_, _, _, _]:
            raise ValueError("a fourth cell, someone's answer; the folder Your_Results has none")
    raise ValueError(f"{len(parts)} cells between tabs instead of image, question, answer")


def _folder(cells: Line) -> str:
    """The subtask's folder; questions of some lie in questions_answers_YN within it."""
    folders = cells["folders"]
    return next((name for name in reversed(folders) if name in SUBTASKS), folders[-1] if folders else "")


def _beside(row: Row, subtask: str, name: str) -> list[str]:
    """The picture in a file: in its subtask's folder, or that one's `images`."""
    if row.beside is None:
        return []
    names = [name] if Path(name).suffix else [f"{name}.jpg", f"{name}.png"]
    for place in (f"{subtask}/images", subtask):
        for candidate in names:
            try:
                return [row.picture(f"{place}/{candidate}")]
            except ValueError as error:
                problem = error
    raise problem


def _own(one: FixtureScene) -> tuple[str, list[str]]:
    """A subtask that the scene allows; a question that is to be affirmed, and one that is to be denied."""
    facts, rng = one.facts, one.rng(1)
    name, count = next(iter(facts.counts.items()))
    kind = one.scene.kind
    if kind == "counting" and count > 1:
        numbers = (count, facts.other_count(name, rng))
        return "count", [
            f"Are there exactly {NUMBERS[n]} {plural(name)}?" if n > 1 else f"Is there exactly one {name}?"
            for n in numbers
        ]
    if kind == "position" and facts.pairs:
        thing, where, other = facts.pairs[0]
        return "position", [f"Is the {thing} {place} the {other}?" for place in (where, OPPOSITE[where])]
    if kind in ("colors", "color_attr") and facts.uniform:
        name, colour = next(iter(facts.uniform.items()))
        colours = (colour, facts.other_colour(name, rng))
        return "color", [f"Is the {name} {colour}?" for colour in colours]
    return "existence", [f"Is there {article(n)} in this image?" for n in (name, facts.absent(rng))]


def _other(one: FixtureScene, subtask: str) -> tuple[str, list[str]]:
    """The same for one of the other subtasks."""
    rng = one.rng(2)
    if subtask in _OF_A_NUMBER:
        number = one.facts.number + 1
        numbers = (number, number + 1 + int(rng.integers(3)))
        return subtask, [_OF_A_NUMBER[subtask].format(n) for n in numbers]
    names = (next(iter(one.facts.counts)), one.facts.absent(rng))
    return subtask, [_OF_A_THING[subtask].format(article(name)) for name in names]
