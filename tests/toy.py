"""A small benchmark of questions: what is in the picture?"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from janus.eval.benchmark import Answers, Counts, Line, Progress, Scored, Table
from janus.eval.fixtures import FixtureScene, fixture_scenes
from janus.eval.profiles import Form
from janus.eval.tables import Row, write_tsv
from janus.eval.understanding import Understanding


class Toy(Understanding):
    """Rows: index, image, question, answer, pair."""

    name: ClassVar[str] = "toy"
    accepts: ClassVar[Sequence[str]] = ("toy*.tsv",)
    form: ClassVar[Form] = "free"

    def sample(self, row: Row) -> Line:
        cells = row.cells
        if not cells.get("question"):
            raise ValueError("no question")
        return {
            "id": cells["index"],
            "question": cells["question"],
            "answer": cells["answer"],
            "pair": cells["pair"],
            "pictures": row.pictures,
        }

    def group(self, sample: Line) -> str:
        return str(sample["pair"])

    def score(self, answers: Answers, on_progress: Progress | None = None) -> Scored:
        verdicts = []
        for index, sample in enumerate(answers.samples):
            text = answers.text(index)
            if text is None:
                continue
            right = text == sample["answer"]
            more: dict[str, Any] = {"tags": {"pair": sample["pair"]}, "cluster": sample["pair"]}
            reason = "" if right else "another answer"
            verdicts.append(
                self.verdict(
                    answers, index, read=text, expected=sample["answer"], score=right, reason=reason, **more
                )
            )
        counts = Counts("question", len(answers.samples), len(verdicts), len(verdicts), len(verdicts))
        overall = fmean(line["score"] for line in verdicts) if counts.complete else None
        table = Table("", ["", "score"], [["all", str(overall)]])
        return Scored({"overall": overall}, counts, verdicts, {}, self.caveat(answers), [table])

    def fixture(self, scenes: Sequence[FixtureScene]) -> list[Line]:
        return rows(scenes)


def rows(scenes: Sequence[FixtureScene]) -> list[Line]:
    return [
        {
            "index": one.number,
            "image": base64.b64encode(one.png).decode(),
            "question": "What is in the picture?",
            "answer": next(iter(one.facts.counts)),
            "pair": one.number // 2,
        }
        for one in scenes
    ]


def data(folder: Path, count: int = 10) -> Path:
    """A data file of so many questions."""
    write_tsv(folder / "toy.tsv", rows(fixture_scenes(count)))
    return folder / "toy.tsv"
