"""MMMU (validation): questions from thirty college subjects, most of them multiple choice, some open.

Source: Yue et al., "MMMU: A Massive Multi-discipline Multimodal Understanding and Reasoning Benchmark for
Expert AGI", github.com/MMMU-Benchmark/MMMU (commit bb0b95a).  `mmmu_rules` reads answers, docs/evaluation.md
explains.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from janus.data.scenes import RELATIONS
from janus.data.wording_en import NUMBERS, plural
from janus.eval.benchmark import Answers, Counts, Line, Progress, Scored
from janus.eval.choosing import LETTERS, Choosing, MultipleChoice, cell, checked, options_of, some, why
from janus.eval.fixtures import FixtureScene
from janus.eval.mmmu_rules import CHOICE, OPEN, golds
from janus.eval.mmmu_scores import DOMAINS, notes, scores_of, tables
from janus.eval.tables import Row

SPLIT = "validation"
_GOLDS = "answer_dict_val.json"  # the official answers, by the question's id
_DOMAIN = {subject: domain for domain, subjects in DOMAINS.items() for subject in subjects}


class MMMU(MultipleChoice):
    """The benchmark.

    judge: who is asked about choices that the rules cannot read, of which the official scorer guesses; None:
    they count as wrong.
    """

    name: ClassVar[str] = "mmmu"
    files: ClassVar[Mapping[str, str]] = {
        "585e8ad75e73f75dcad265dfd0417d64": "VLMEvalKit's MMMU_DEV_VAL.tsv",
        "993feccbb751cde681f5b6d03e2aa183": f"MMMU's {_GOLDS}",
    }
    accepts: ClassVar[Sequence[str]] = ("MMMU_DEV_VAL.tsv", f"{SPLIT}-*.parquet", _GOLDS)
    # -- data

    def sample(self, row: Row) -> Line:
        """Of MMMU's parquet (one folder for each subject) or VLMEvalKit's TSV."""
        cells = row.cells
        question, options = cell(cells, "question"), _options(cells)
        gold = _gold(cells.get("ground_truth") or cells.get("answer"))
        kind = cell(cells, "question_type")
        if kind == "multiple-choice" or (not kind and options):
            checked(question, options, gold if isinstance(gold, str) else ", ".join(gold))
        elif not question or not gold:
            raise ValueError("there is no question" if not question else "there is no answer")
        else:
            options = {}
        subject = _subject(cells)
        return {
            "id": cell(cells, "id", "index"),
            "question": question,
            "options": options,
            "answer": gold,
            "type": "multiple-choice" if options else "open",
            "subject": subject,
            "domain": _DOMAIN[subject],
            "pictures": row.pictures,
        }

    def chosen(self, rows: Sequence[Row], source: Path) -> Sequence[Row]:
        """Of the validation split alone; what is expected is what the official file says, if it is there."""
        official = {str(row.cells["id"]): row.cells for row in rows if _is_gold(row)}
        asked = [row for row in rows if not _is_gold(row) and _split(row.cells) == SPLIT]
        for row in asked:
            name = cell(row.cells, "id")
            if official and name not in official:
                row.problem = row.problem or f"{_GOLDS} has no answer to {name!r}"
            elif official:
                row.cells |= {key: official[name][key] for key in ("question_type", "ground_truth")}
        if rows and not asked:
            raise ValueError(f"{source} has no questions of the {SPLIT} split")
        return asked

    def lacking(self, lines: Sequence[Line]) -> Iterator[str]:
        there = {line["subject"] for line in lines}
        yield from (subject for subject in _DOMAIN if subject not in there)

    # -- scores

    def score(self, answers: Answers, on_progress: Progress | None = None) -> Scored:
        """The share of right answers: overall, of either type, by domain and by subject."""
        places = [place for place, sample in enumerate(answers.samples) if sample["type"] != "open"]
        chosen = Choosing(answers, places, CHOICE[self.mode], self.judge, on_progress)
        verdicts = []
        for place, sample in enumerate(answers.samples):
            if sample["type"] == "open" and answers.text(place) is not None:
                verdicts.append(self._open(answers, place))
            elif place in chosen.settled:
                verdicts.append(self._choice(answers, chosen, place))
        answered = sum(answers.text(place) is not None for place in range(len(answers.samples)))
        read = sum(line["read"] is not None for line in verdicts)
        scores, details = scores_of(answers.samples, verdicts)
        return Scored(
            scores=scores,
            counts=Counts("question", len(answers.samples), answered, read, len(verdicts)),
            verdicts=verdicts,
            details=details | chosen.details,
            caveat=self.caveat(
                answers,
                chosen.caveat,
            ),
            tables=tables(answers, scores, details, verdicts),
            notes=[*notes(details, self.mode), *chosen.notes],
        )

    def _choice(self, answers: Answers, chosen: Choosing, place: int) -> Line:
        sample, choice = answers.samples[place], chosen.choices[place]
        return self._line(
            answers, place, choice.letter, choice.letter == sample["answer"], why(choice, sample["answer"])
        )

    def _open(self, answers: Answers, place: int) -> Line:
        """An open answer is always read: at the worst as the whole of itself."""
        reader, equal = OPEN[self.mode]
        sample, read = answers.samples[place], reader(answers.text(place) or "")
        right = equal(sample["answer"], read)
        expected = " or ".join(golds(sample["answer"]))
        told = " | ".join(str(value) for value in read)
        reason = "" if right else f"expected {expected}"
        return self._line(answers, place, told, right, reason)

    def _line(self, answers: Answers, place: int, read: str | None, right: bool, reason: str) -> Line:
        sample = answers.samples[place]
        return self.verdict(
            answers,
            place,
            read=read,
            expected=" or ".join(golds(sample["answer"])),
            score=float(right),
            reason=reason,
            tags={name: sample[name] for name in ("type", "domain", "subject")},
        )

    # -- the embedded world

    def fixture(self, scenes: Sequence[FixtureScene]) -> list[Line]:
        """Rows of VLMEvalKit's TSV about five of six scenes: three choices, of which one is about two
        pictures, and two open questions."""
        subjects = list(_DOMAIN)
        rows: list[Line] = []
        for one, other in zip(scenes, [*scenes[1:], *scenes[:1]], strict=True):
            if one.number % 6 == 5:
                continue
            question, options, answer, pictures = _about(one, other)
            subject = subjects[len(rows) % len(subjects)]
            rows.append(
                {
                    "index": len(rows) + 1,
                    "id": f"{SPLIT}_{subject}_{len(rows) // len(subjects) + 1}",
                    "image": str(pictures) if len(pictures) > 1 else pictures[0],
                    "question": question,
                    **{letter: options.get(letter, "") for letter in "ABCD"},
                    "answer": answer,
                    "question_type": "multiple-choice" if options else "open",
                    "category": subject,
                    "l2-category": _DOMAIN[subject],
                    "split": SPLIT,
                }
            )
        return rows


def _is_gold(row: Row) -> bool:
    return row.where.startswith(_GOLDS)


def _split(cells: Mapping[str, Any]) -> str:
    """The column, or the beginning of the id; rows with neither are of the validation split."""
    named = cell(cells, "split") or cell(cells, "id").split("_")[0]
    return {"val": SPLIT}.get(named, named) if named in ("dev", "test", "val", SPLIT) else SPLIT


def _subject(cells: Mapping[str, Any]) -> str:
    """From the id, as the official scorer has it, or the column.  Raises ValueError for unknown ones."""
    parts = cell(cells, "id").split("_")
    for name in ("_".join(parts[1:-1]), cell(cells, "category", "subject").replace(" ", "_")):
        if name in _DOMAIN:
            return name
    raise ValueError(f"neither the id {cell(cells, 'id')!r} nor a column category names one of the subjects")


def _options(cells: Mapping[str, Any]) -> dict[str, str]:
    """A list, the text of a list, or the columns A, B, ...  Raises ValueError for other things."""
    options = cells.get("options")
    if options is None:
        return options_of(cells)
    listed = _list(options)
    if listed is None:
        raise ValueError(f"options must be a list of texts, not {options!r}")
    return dict(zip(LETTERS, listed, strict=False))


def _gold(value: Any) -> str | list[str]:
    """What is expected: a text, or several of which each is right."""
    listed = _list(value) if not isinstance(value, str) or value.startswith("[") else None
    return listed if listed else str(value if value is not None else "").strip()


def _list(value: Any) -> list[str] | None:
    """The texts in a list, or in the text of one; None for other things."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return [str(one) for one in value] if isinstance(value, list | tuple) else None


def _about(one: FixtureScene, other: FixtureScene) -> tuple[str, dict[str, str], str, list[str]]:
    """A question, its options, the answer, and the pictures that it is about."""
    facts, rng = one.facts, one.rng(3)
    name, count = next(iter(facts.counts.items()))
    match one.number % 6:
        case 1:  # which of two pictures
            missing = next((name for name in facts.counts if name not in other.facts.counts), None)
            if missing is not None:
                pictures = [one.base64, other.base64] if rng.random() < 0.5 else [other.base64, one.base64]
                options = {"A": "<image 1>", "B": "<image 2>"}
                answer = "AB"[pictures.index(one.base64)]
                return f"Which picture shows a {missing}?", options, answer, pictures
        case 2:
            answer = str([str(count), NUMBERS[count]])
            return f"<image 1> How many {plural(name)} are there?", {}, answer, [one.base64]
        case 3 if facts.uniform:
            name, colour = next(iter(facts.uniform.items()))
            return f"<image 1> What color is the {name}?", {}, colour, [one.base64]
        case 4 if facts.pairs:
            name, where, than = facts.pairs[0]
            wrong = some([relation for relation in RELATIONS if relation != where], 2, rng)
            options, answer = _lettered([f"{relation} the {than}" for relation in (where, *wrong)], rng)
            return f"Where is the {name} in <image 1>?", options, answer, [one.base64]
    options, answer = _lettered([name, facts.absent(rng)], rng)
    return "What is in <image 1>?", options, answer, [one.base64]


def _lettered(texts: Sequence[str], rng: np.random.Generator) -> tuple[dict[str, str], str]:
    """Options by letter in any order, and the letter of the first of the texts."""
    order = list(rng.permutation(len(texts)))
    options = {letter: texts[place] for letter, place in zip(LETTERS, order, strict=False)}
    return options, LETTERS[order.index(0)]
