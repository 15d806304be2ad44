"""MM-Vet: free answers to questions that need several abilities together, graded by a judge.

Six capabilities: recognition, reading, knowledge, language, space, numbers.  Source: Yu et al., "MM-Vet:
Evaluating Large Multimodal Models for Integrated Capabilities", github.com/yuweihao/MM-Vet (commit acde843).
`mmvet_rules` has the rules, `judges` asks, docs/evaluation.md explains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import ClassVar

from janus.data.wording_en import NUMBERS, plural
from janus.eval.benchmark import Answers, Counts, Line, Mode, Progress, Scored
from janus.eval.fixtures import FixtureScene
from janus.eval.judges import Consultation, Judge, Request
from janus.eval.mmvet_rules import CAPABILITIES, JUDGE, RULES, combination, matches
from janus.eval.mmvet_scores import scores_of, tables
from janus.eval.profiles import Form, ProfileName
from janus.eval.tables import Row
from janus.eval.understanding import Understanding

_OFFICIAL = "mm-vet.json"  # in mm-vet.zip, release v1 of the official repository
_NAN = "the judge's grade is no number"


@dataclass
class _Grade:
    """What became of one answer in one run of grading."""

    replies: list[str] = field(default_factory=list)
    value: float | None = None
    read: str | None = None  # the reply that the value was read from
    error: str = ""


class MMVet(Understanding):
    """The benchmark.

    judge: who grades; None: answers are matched with the truth, which is no score of MM-Vet's.  runs: how
    often each answer is graded, once in the official script, five times in its paper.
    """

    name: ClassVar[str] = "mmvet"
    published_by: ClassVar[str] = "the official ones"
    files: ClassVar[Mapping[str, str]] = {
        "748aa6d4aa9d4de798306a63718455e3": "VLMEvalKit's MMVet.tsv",
        "6eced3121b9865098ea72aca233ca5ff7fd7b81374494d878815b9f856442d8e": f"MM-Vet's {_OFFICIAL}",
    }
    accepts: ClassVar[Sequence[str]] = (_OFFICIAL, "MMVet.tsv", "test-*.parquet")
    form: ClassVar[Form] = "free"

    def __init__(
        self,
        mode: Mode = "official",
        profile: ProfileName = "pro",
        judge: Judge | None = None,
        runs: int = 1,
    ) -> None:
        super().__init__(mode, profile)
        if runs < 1:
            raise ValueError(f"runs must be at least 1, not {runs}")
        self.judge, self.runs = judge, runs

    def sample(self, row: Row) -> Line:
        """Of mm-vet.json, VLMEvalKit's TSV or lmms-lab's parquet."""
        cells = row.cells
        for name in ("question", "answer"):
            if not isinstance(cells.get(name), str) or not cells[name].strip():
                raise ValueError(f"{name} must be some words, not {cells.get(name)!r}")
        said = cells.get("capability", cells.get("category"))
        named = [name.strip() for name in said.split(",")] if isinstance(said, str) else said
        if not isinstance(named, list) or not named or not set(map(str, named)) <= set(CAPABILITIES):
            raise ValueError(f"capability must be some of {', '.join(CAPABILITIES)}, not {said!r}")
        ids = [cells[name] for name in ("id", "question_id", "index") if cells.get(name) not in (None, "")]
        if not ids:
            raise ValueError("there is neither an id nor a question_id nor an index")
        pictures = row.pictures[:1] or ([row.picture(cells["imagename"])] if cells.get("imagename") else [])
        if not pictures:
            raise ValueError("there is no picture")
        return {
            "id": str(ids[0]),
            "question": cells["question"],
            "answer": cells["answer"],
            "capabilities": [name for name in CAPABILITIES if name in named],
            "pictures": pictures,
        }

    def prepare(self) -> None:
        """Raises ValueError for a judge that cannot be asked."""
        if self.judge is None:
            return
        if not self.judge.chats:
            raise ValueError(f"{self.judge.title} follows no instructions and cannot grade answers")
        self.judge.check()

    def score(self, answers: Answers, on_progress: Progress | None = None) -> Scored:
        """Grade every answer; what the judge did not grade has no verdict, and there is no overall then."""
        places = [place for place in range(len(answers.samples)) if answers.text(place) is not None]
        consultation = None if self.judge is None else Consultation(self.judge, answers.folder)
        if consultation is None:
            grades = {place: [self._matched(answers, place)] for place in places}
        else:
            grades = self._graded(answers, places, consultation, on_progress)
        verdicts = [
            self._verdict(answers, place, of)
            for place, of in grades.items()
            if all(grade.value is not None for grade in of)
        ]
        read = sum(all(grade.read is not None for grade in of) for of in grades.values())
        counts = Counts("question", len(answers.samples), len(places), read, len(verdicts))
        scores, details = scores_of(answers.samples, verdicts)
        if consultation is not None:
            details |= {"judge": consultation.details, "runs": self.runs}
        return Scored(
            scores=scores,
            counts=counts,
            verdicts=verdicts,
            details=details,
            caveat=self._caveat(answers, consultation),
            tables=tables(scores, details, verdicts),
            notes=self._notes(details, grades, consultation),
        )

    def _graded(
        self,
        answers: Answers,
        places: Sequence[int],
        consultation: Consultation,
        on_progress: Progress | None,
    ) -> dict[int, list[_Grade]]:
        """All first tries together, then second tries for what could not be read, and so on."""
        rule = RULES[self.mode]
        grades = {place: [_Grade() for _ in range(self.runs)] for place in places}
        waiting = [(place, number) for place in places for number in range(self.runs)]
        for turn, again in enumerate(rule.tries):
            requests = []
            for place, number in waiting:
                sample, answer = answers.samples[place], answers.text(place)
                assert answer is not None
                prompt = rule.prompt(sample["question"], sample["answer"], answer, again.closing)
                about = f"{sample['id']}, run {number}, try {turn}"
                requests.append(
                    Request(
                        prompt,
                        temperature=again.temperature,
                        max_tokens=rule.max_tokens,
                        number=number,
                        about=about,
                    )
                )
            left = []
            for key, reply in zip(waiting, consultation.ask(requests, on_progress), strict=True):
                grade = grades[key[0]][key[1]]
                if reply.text is None:
                    grade.error = reply.error
                    continue
                grade.replies.append(reply.text)
                grade.value = rule.read(reply.text)
                if grade.value is None:
                    left.append(key)
                elif math.isnan(grade.value):
                    grade.value, grade.error = None, _NAN
                else:
                    grade.read = reply.text
            waiting = left
        for place, number in waiting:
            grades[place][number].value = rule.unread
        return grades

    def _matched(self, answers: Answers, place: int) -> _Grade:
        answer = answers.text(place)
        assert answer is not None
        return _Grade(value=float(matches(answers.samples[place]["answer"], answer)), read=answer)

    def _verdict(self, answers: Answers, place: int, grades: Sequence[_Grade]) -> Line:
        sample = answers.samples[place]
        values = [grade.value for grade in grades if grade.value is not None]
        unread = [grade.replies[-1] for grade in grades if grade.read is None]
        score = fmean(values)
        told = ", ".join(f"{value:g}" for value in values)
        reason = f"graded {told}" if self.judge is not None else "is not what was expected"
        if unread:
            reason += f"; the judge said {unread[0]!r}, which is no grade"
        return self.verdict(
            answers,
            place,
            read=None if unread else ", ".join(str(grade.read) for grade in grades),
            expected=sample["answer"],
            score=score,
            reason="" if score == 1 and not unread else reason,
            tags={"combination": combination(sample["capabilities"])},
            cluster=sample["pictures"][0],
        ) | {"grades": values}

    def _caveat(self, answers: Answers, consultation: Consultation | None) -> str:
        if consultation is None:
            judged = "answers were matched, not graded by a judge: this is no score of MM-Vet's"
        elif consultation.models == [JUDGE]:
            judged = ""
        else:
            who = ", ".join(consultation.models) or consultation.judge.title
            judged = f"graded by {who}, published numbers by GPT-4 ({JUDGE}); judges differ by points"
        return self.caveat(answers, judged)

    def _notes(
        self, details: Line, grades: Mapping[int, Sequence[_Grade]], consultation: Consultation | None
    ) -> list[str]:
        told = [] if consultation is None else consultation.notes
        every = [grade for of in grades.values() for grade in of]
        unread = sum(grade.read is None and not grade.error for grade in every)
        if unread:
            becomes = "counts 0.0 by the official rule" if self.mode == "official" else "has no verdict"
            told.append(f"The judge graded {unread} answers in no way that can be read; each {becomes}.")
        none = sum(grade.error == _NAN for grade in every)
        if none:
            told.append(
                f'The judge graded {none} answers "nan", which the official script takes for a grade: its '
                "total would be no number."
            )
        official = details["official"]
        if official is not None and self.runs > 1:
            told.append(f"Totals of the {self.runs} runs: {official['runs']}, deviation {official['std']}.")
        return told

    def fixture(self, scenes: Sequence[FixtureScene]) -> list[Line]:
        """Rows of VLMEvalKit's TSV about each scene: what, how many, which colour, where."""
        rows: list[Line] = []
        for one in scenes:
            facts = one.facts
            names = list(facts.counts)
            asked = [("What is in the picture?", _all(facts.counts), "rec,gen" if names[1:] else "rec")]
            name = names[int(one.rng().integers(len(names)))]
            count = facts.counts[name]
            asked.append((f"How many {plural(name)} are there?", f"{NUMBERS[count]}<OR>{count}", "rec"))
            for name, colour in list(facts.uniform.items())[:1]:
                things = f"is the {name}" if facts.counts[name] == 1 else f"are the {plural(name)}"
                asked.append((f"What color {things}?", colour, "rec"))
            for name, where, other in facts.pairs[:1]:
                way = where.removesuffix(" of")
                answer = f"{way}<OR>to the {way}<OR>{where} the {other}"
                asked.append((f"Where is the {name} relative to the {other}?", answer, "rec,spat"))
            for question, answer, category in asked:
                line = {"index": len(rows), "image": one.base64, "question": question, "answer": answer}
                rows.append(line | {"category": category})
        return rows


def _all(counts: Mapping[str, int]) -> str:
    """What is in a picture, as a truth."""
    if len(counts) > 1:
        return "<AND>".join(name if count == 1 else plural(name) for name, count in counts.items())
    [(name, count)] = counts.items()
    if count > 1:
        return f"{NUMBERS[count]} {plural(name)}<OR>{count} {plural(name)}"
    return f"{name}<OR>a {name}<OR>an {name}"
