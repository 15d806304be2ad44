"""POPE: does a model see things in a picture that are not there?

Three splits of questions "Is there a dog in the image?", half of them about things that are there.  What is
not there is drawn at random, from the things most often shown, or from those most often beside what is there.
Source: Li et al., "Evaluating Object Hallucination in Large Vision-Language Models", github.com/RUCAIBox/POPE
(commit 3df3ba1).  `yesno` reads answers, `pope_scores` counts, docs/evaluation.md explains.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from janus.data.subjects import NAMES
from janus.data.wording import article
from janus.eval import yesno
from janus.eval.benchmark import Answers, Counts, Line, Progress, Scored
from janus.eval.fixtures import FixtureScene
from janus.eval.pope_scores import RULES, SPLITS, notes, scores_of, tables
from janus.eval.profiles import Form
from janus.eval.tables import Row
from janus.eval.understanding import Understanding

_NAMED = re.compile("|".join(SPLITS))


class POPE(Understanding):
    """The benchmark."""

    name: ClassVar[str] = "pope"
    published_by: ClassVar[str] = "the official ones"
    files: ClassVar[Mapping[str, str]] = {
        "dc9b6c41ad832c48da758cfa85b37d2c": "POPE's coco_pope_random.json",
        "64902313fb995e09fa478de9741910d7": "POPE's coco_pope_popular.json",
        "3b1a278f8d61acd21b27020d0af817cb": "POPE's coco_pope_adversarial.json",
        "c12f5acb142f2ef1f85a26ba2fbe41d5": "VLMEvalKit's POPE.tsv",
    }
    accepts: ClassVar[Sequence[str]] = ("coco_pope_*.json", "POPE.tsv", "test-*.parquet")
    form: ClassVar[Form] = "yes-no"

    def sample(self, row: Row) -> Line:
        """Of POPE's JSON lines, VLMEvalKit's TSV (a row may be of several splits) or lmms-lab's parquet."""
        cells = row.cells
        question = cells.get("text") or cells.get("question")
        if not question:
            raise ValueError("there is no question, neither in a column text nor in question")
        splits = _splits(cells.get("category"), row.where)
        return {
            "id": _id(cells, splits),
            "question": str(question),
            "answer": yesno.label(cells.get("label", cells.get("answer"))),
            "splits": splits,
            "pictures": row.pictures[:1] or ([row.picture(cells["image"])] if cells.get("image") else []),
        }

    def check(self, lines: Sequence[Line]) -> Iterator[str]:
        """Questions of a TSV beside the same ones of the official files, which would count twice."""
        if len({"/" in line["id"] for line in lines}) > 1:
            yield "a TSV file and others hold the same questions; give one of them"

    def lacking(self, lines: Sequence[Line]) -> Iterator[str]:
        for split in SPLITS:
            if not any(split in line["splits"] for line in lines):
                yield f"the {split} split"

    def group(self, sample: Line) -> str:
        """Its picture, so that a part of the benchmark has all splits."""
        return str(sample["pictures"][0]) if sample["pictures"] else str(sample["id"])

    def score(self, answers: Answers, on_progress: Progress | None = None) -> Scored:
        """Each split by itself; overall is the mean of their F1, None where an answer or split is missing."""
        expected = Counter(split for sample in answers.samples for split in sample["splits"])
        verdicts = list(self._verdicts(answers))
        read = sum(line["read"] is not None for line in verdicts)
        lacking = list(self.lacking(answers.samples))
        scores, details = scores_of(verdicts, expected, lacking, self.mode)
        return Scored(
            scores=scores,
            counts=Counts("question", sum(expected.values()), len(verdicts), read, len(verdicts)),
            verdicts=verdicts,
            details=details,
            caveat=self.caveat(
                answers,
                f"without {' and '.join(lacking)}" if lacking else "",
            ),
            tables=tables(scores, details, verdicts),
            notes=notes(scores, details, verdicts, self.mode),
        )

    def _verdicts(self, answers: Answers) -> Iterator[Line]:
        """One for each question of each split: what is asked once may be a question of several."""
        for place, sample in enumerate(answers.samples):
            text = answers.text(place)
            if text is None:
                continue
            read, right = RULES[self.mode](text), sample["answer"]
            for split in sample["splits"]:
                line = self.verdict(
                    answers,
                    place,
                    read=read,
                    expected=right,
                    score=float(read == right),
                    reason=yesno.reason(read, right),
                    tags={"split": split},
                    cluster=self.group(sample),
                )
                yield line | ({"id": f"{sample['id']}, {split}"} if len(sample["splits"]) > 1 else {})

    def fixture(self, scenes: Sequence[FixtureScene]) -> list[Line]:
        """Rows of VLMEvalKit's TSV about half of the scenes, four to each.

        Popular is what most of the scenes show, adversarial what most of those show that are like this one.
        What is there is asked in all splits.
        """
        rows: list[Line] = []
        shown = Counter(name for one in scenes for name in one.facts.counts)
        for one in scenes[: (len(scenes) + 1) // 2]:
            there = list(one.facts.counts)
            like = [other for other in scenes if set(there) & set(other.facts.counts)]
            beside = Counter(name for other in like for name in other.facts.counts)
            rng = one.rng()
            asked: dict[str, list[str]] = {there[int(rng.integers(len(there)))]: list(SPLITS)}
            absent = sorted((name for name in NAMES if name not in there), key=lambda _: rng.random())
            often = {"random": Counter[str](), "popular": shown, "adversarial": beside + shown}
            for split, counts in often.items():
                asked[max((name for name in absent if name not in asked), key=counts.__getitem__)] = [split]
            rows += [
                {
                    "index": len(rows) + number,
                    "image": one.base64,
                    "question": f"Is there {article(name)} in the image?{yesno.REQUEST}",
                    "answer": "Yes" if name in there else "No",
                    "category": ",".join(sorted(splits)),
                }
                for number, (name, splits) in enumerate(asked.items())
            ]
        return rows


def _id(cells: Line, splits: Sequence[str]) -> str:
    """Raises ValueError where a row has none."""
    if cells.get("index") not in (None, ""):
        return str(cells["index"])
    if cells.get("question_id") in (None, ""):
        raise ValueError("there is neither an index nor a question_id")
    return f"{splits[0]}/{cells['question_id']}"


def _splits(category: object, where: str) -> list[str]:
    """From the cell of a row, or from the name of its file.  Raises ValueError for others."""
    if not category:
        named = _NAMED.findall(where.split(",")[0])
        if len(named) != 1:
            raise ValueError("neither a column category nor the file's name says which split it is of")
        return list(named)
    splits = [split.strip() for split in str(category).split(",")]
    if unknown := set(splits) - set(SPLITS):
        raise ValueError(f"category must be some of {', '.join(SPLITS)}, not {min(unknown)!r}")
    return [split for split in SPLITS if split in splits]
