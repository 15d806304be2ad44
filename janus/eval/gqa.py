"""GQA, testdev balanced: 12,578 questions about 398 pictures, answered in a word or two.

Source: Hudson and Manning, "GQA: A New Dataset for Real-World Visual Reasoning and Compositional Question
Answering", whose eval.py (from cs.stanford.edu/people/dorarad/gqa) compares answers as they are.  Published
models are scored after a step of LLaVA's.  `gqa_scores` has both rules, docs/evaluation.md explains them.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from janus.data.wording import article, plural
from janus.eval.benchmark import Answers, Counts, Line, Progress, Scored
from janus.eval.fixtures import FixtureScene
from janus.eval.gqa_scores import RULES, notes, scores_of, steps_of, tables
from janus.eval.profiles import Form
from janus.eval.tables import Row
from janus.eval.understanding import Understanding

_CHOICES = {"left of": "left", "right of": "right", "above": "above", "below": "below"}


class GQA(Understanding):
    """The benchmark."""

    name: ClassVar[str] = "gqa"
    files: ClassVar[Mapping[str, str]] = {
        "99b62f22e224d9b2f32dcbe41359d1c9": "VLMEvalKit's GQA_TestDev_Balanced.tsv"
    }
    accepts: ClassVar[Sequence[str]] = (
        "testdev_balanced_questions.json",
        "GQA_TestDev_Balanced.tsv",
        "testdev_balanced_*/*.parquet",
    )
    form: ClassVar[Form] = "short"

    def sample(self, row: Row) -> Line:
        """Of the official JSON, VLMEvalKit's TSV or lmms-lab's parquet; types, groups and steps may lack."""
        cells = row.cells
        number, image = cells.get("id", cells.get("index")), str(cells.get("imageId") or "")
        question, answer = str(cells.get("question") or ""), str(cells.get("answer") or "")
        if number in (None, ""):
            raise ValueError("there is neither an id nor an index")
        if not question or not answer:
            raise ValueError(f"there is no {'answer' if question else 'question'}")
        if str(cells.get("isBalanced", True)).lower() == "false":
            raise ValueError("isBalanced is false, and only balanced questions are scored")
        types, groups = _parsed(cells.get("types"), dict), _parsed(cells.get("groups"), dict)
        steps = _parsed(cells.get("semantic"), list)
        pictures = row.pictures[:1]
        if not pictures and image and row.beside is not None:
            pictures = [row.picture(image if Path(image).suffix else f"{image}.jpg")]
        return {
            "id": str(number),
            "question": question,
            "answer": answer,
            "types": {name: types[name] for name in ("structural", "semantic") if types.get(name)},
            "group": groups.get("global"),
            "steps": steps_of(steps) if steps else None,
            "pictures": pictures,
        }

    def score(self, answers: Answers, on_progress: Progress | None = None) -> Scored:
        """Accuracy, of all and by types, None where an answer is missing."""
        verdicts = list(self._verdicts(answers))
        read = sum(line["read"] is not None for line in verdicts)
        scores, details = scores_of(verdicts, answers.samples, RULES[self.mode])
        return Scored(
            scores=scores,
            counts=Counts("question", len(answers.samples), len(verdicts), read, len(verdicts)),
            verdicts=verdicts,
            details=details,
            caveat=self.caveat(
                answers,
            ),
            tables=tables(scores, details),
            notes=notes(details, self.mode),
        )

    def chosen(self, rows: Sequence[Row], source: Path) -> Sequence[Row]:
        """lmms-lab has pictures in a file of their own."""
        return _joined(rows)

    def _verdicts(self, answers: Answers) -> Iterator[Line]:
        rule = RULES[self.mode]
        for place, sample in enumerate(answers.samples):
            text = answers.text(place)
            if text is None:
                continue
            right = rule.agrees(text, sample["answer"])
            tags = {**sample["types"], "words": str(len(sample["question"].split()))}
            if tags.get("structural"):
                tags["kind"] = "open" if tags["structural"] == "query" else "binary"
            if sample["steps"] is not None:
                tags["steps"] = str(sample["steps"])
            yield self.verdict(
                answers,
                place,
                read=rule.read(text) or None,
                expected=sample["answer"],
                score=float(right),
                reason="" if right else "not the same" if rule.read(text) else "no answer",
                tags=tags,
                cluster=(sample["pictures"] or [""])[0],
            )

    def fixture(self, scenes: Sequence[FixtureScene]) -> list[Line]:
        """Rows of a TSV with the official types as JSON, two or three about each scene."""
        rows: list[Line] = []
        for one in scenes:
            for structural, semantic, question, answer in _asked(one):
                rows.append({
                    "index": len(rows),
                    "image": one.base64,
                    "question": question,
                    "answer": answer,
                    "types": json.dumps({"structural": structural, "semantic": semantic}),
                })  # fmt: skip
        return rows


def _asked(one: FixtureScene) -> Iterator[tuple[str, str, str, str]]:
    """Structural and semantic type, question and answer."""
    facts, rng = one.facts, one.rng()
    names = list(facts.counts)
    name, other = names[0], facts.absent(rng)
    there = rng.random() < 0.5
    question = f"Is there {article(name if there else other)} in the picture?"
    yield "verify", "obj", question, "yes" if there else "no"
    if facts.number == 1:
        yield "query", "cat", "What is shown in the picture?", name
    for name, colour in list(facts.uniform.items())[:1]:
        the = f"is the {name}" if facts.counts[name] == 1 else f"are the {plural(name)}"
        yield "query", "attr", f"What color {the}?", colour
    if len(names) > 1:
        second, both = (names[1], "yes") if rng.random() < 0.5 else (other, "no")
        question = f"Are there both {article(names[0])} and {article(second)} in the picture?"
        yield "logical", "obj", question, both
    for thing, where, reference in facts.pairs[:1]:
        sides = "to the left or to the right of" if where in ("left of", "right of") else "above or below"
        yield "choose", "rel", f"Is the {thing} {sides} the {reference}?", _CHOICES[where]


def _parsed(cell: Any, kind: type) -> Any:
    """A dict or list, as it is or as text in JSON or Python; an empty one where there is none."""
    if isinstance(cell, str) and cell:
        for parse in (json.loads, ast.literal_eval):
            try:
                cell = parse(cell)
                break
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    return cell if isinstance(cell, kind) else kind()


def _joined(rows: Sequence[Row]) -> list[Row]:
    """Questions with the pictures that other rows hold by their id."""
    pictures = {str(row.cells.get("id")): row for row in rows if row.pictures and "question" not in row.cells}
    questions = []
    for row in rows:
        if row.pictures and "question" not in row.cells:
            continue
        held = pictures.get(str(row.cells.get("imageId")))
        if held is not None and not row.pictures:
            row.pictures = held.pictures
        questions.append(row)
    return questions
