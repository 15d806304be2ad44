"""GenEval: does a drawn picture show the things, the number, the colours and the places that were asked for?

Six tasks, four pictures to each prompt, judged by a detector of the eighty COCO classes; the overall score
is the mean of the six tasks' scores.  `geneval_rules` has the rules, docs/evaluation.md explains them.
Source: Ghosh et al., "GenEval", github.com/djghosh13/geneval.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from janus.data.layouts import RELATIONS
from janus.data.subjects import COLOURS, NAMES
from janus.eval.benchmark import (
    Answers,
    Counts,
    Line,
    Mode,
    Progress,
    Samples,
    Scored,
    caveats,
    check_mode,
)
from janus.eval.detect import (
    DETECTORS,
    UNKNOWN_CAVEAT,
    Detector,
    caveat,
    figures,
    load_detector,
    nothing_found,
)
from janus.eval.geneval_rules import RULES, Seen, Verdict, counted, verdict
from janus.eval.geneval_scores import notes, scores_of, tables
from janus.eval.prompts import COUNTS, TASKS, make_prompts
from janus.eval.seen import see

FILE = "evaluation_metadata.jsonl"
OFFICIAL = "the official prompts"
OFFICIAL_SHA256 = "94bc1c23d27e1ac4aa6d9415ac49a6e72263694e5149eb1d895cf61f9da1c083"  # of the 553 lines
_SHOWN = 10  # bad lines named in one message


class GenEval:
    """The benchmark.

    detector: one of `DETECTORS`, loaded when it is needed with `settings`, or any other; `caveat` is what is
    said beside its scores if it says nothing itself.  mode: the official rules with their quirks, or mended
    ones.
    """

    name = "geneval"
    kind: Literal["answer", "picture"] = "picture"
    each = 4
    profile = None

    def __init__(
        self,
        detector: str | Detector = "scene",
        mode: Mode = "official",
        caveat: str = UNKNOWN_CAVEAT,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        check_mode(mode)
        self._detector, self._loading, self.mode = detector, dict(settings or {}), mode
        self._otherwise = (
            DETECTORS[detector][2] if isinstance(detector, str) and detector in DETECTORS else caveat
        )

    def samples(self, data: Path | None, fixture: bool) -> Samples:
        """Official metadata lines, or the package's own prompts: as many of each task, or two of each."""
        if data is not None:
            return read_metadata(data)
        if fixture:
            return Samples("the package's fixture", tuple(make_prompts(0, dict.fromkeys(TASKS, 2))))
        return Samples("the package's own prompts (seed 0)", tuple(make_prompts(0, COUNTS)))

    @property
    def settings(self) -> Line:
        return {}

    def limited(self, lines: Sequence[Line], limit: int) -> Sequence[Line]:
        return lines[:limit]

    def prompt(self, sample: Line) -> str:
        return str(sample["prompt"])

    def prepare(self) -> None:
        """Load the detector.  Raises ValueError where it is missing."""
        self._loaded()

    def score(self, answers: Answers, on_progress: Progress | None = None) -> Scored:
        """Judge every picture that can be read; the detector is asked only about those it has not seen."""
        detector = self._loaded()
        seen = see(answers, detector, on_progress)
        rules = RULES[self.mode]
        lines, correct = [], {}
        for item in answers.items:
            if item.key in seen:
                sample = answers.samples[item.sample]
                things = counted(seen[item.key], sample["tag"], rules)
                judged = verdict(sample, things, rules)
                correct[item.key] = judged.correct
                lines.append(_verdict_line(answers.raw[item.key], sample, judged, things))
        scores, details = scores_of(answers, correct, self.mode)
        details |= {
            "rules": dataclasses.asdict(rules),
            "detector": {"title": detector.title, "figures": figures(detector)},
        }
        answered = sum(item.key in answers.raw for item in answers.items)
        return Scored(
            scores=scores,
            counts=Counts("picture", len(answers.items), answered, len(seen), len(lines)),
            verdicts=lines,
            details=details,
            caveat=caveats(
                self.mode,
                caveat(detector, self._otherwise),
                "" if answers.published else "not all the official prompts",
            ),
            tables=tables(scores, details),
            notes=[*notes(details), *filter(None, [nothing_found(seen)])],
        )

    def _loaded(self) -> Detector:
        if isinstance(self._detector, str):
            self._detector = load_detector(self._detector, **self._loading)
        return self._detector


def _verdict_line(raw: Line, sample: Line, judged: Verdict, things: Mapping[str, Sequence[Seen]]) -> Line:
    """With the keys of the official results.jsonl, so that its summary_scores.py reads the file, too."""
    return {
        "item": raw["item"],
        "id": raw["item"],
        "tags": {"task": sample["tag"]},
        "cluster": raw["item"].split("/")[0],
        "pictures": [raw["file"]],
        "score": float(judged.correct),
        "filename": raw["file"],
        "tag": sample["tag"],
        "prompt": sample["prompt"],
        "correct": judged.correct,
        "reason": "\n".join(judged.reasons),
        "metadata": json.dumps(sample),
        "details": json.dumps({name: [[*t.box, t.score] for t in group] for name, group in things.items()}),
    }


def read_metadata(path: Path) -> Samples:
    """The lines of a metadata file, or of the one in a folder; the official ones are known by their content.

    Raises ValueError naming every bad line by its number and what is wrong with it.
    """
    if path.is_dir():
        path = path / FILE
    try:
        rows = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as error:
        raise ValueError(f"there is no {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    lines, wrong = [], []
    for number, row in enumerate(rows, 1):
        try:
            if row.strip():
                lines.append(_checked(json.loads(row)))
        except (ValueError, RecursionError) as error:
            wrong.append(f"line {number}: {error}")
    if wrong:
        more = f"\n  and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise ValueError(f"{path} has bad lines:\n  " + "\n  ".join(wrong[:_SHOWN]) + more)
    if not lines:
        raise ValueError(f"{path} has no samples")
    samples = Samples(f"lines of {path.name}", tuple(lines))
    return Samples(OFFICIAL, samples.lines, published=True) if samples.sha256 == OFFICIAL_SHA256 else samples


def _checked(line: Any) -> Line:
    """The line itself.  Raises ValueError saying what is wrong with it."""
    if not isinstance(line, dict):
        raise ValueError("not a JSON object")
    unknown = line.keys() - {"tag", "include", "exclude", "prompt"}
    if unknown:
        raise ValueError(f"unknown keys {sorted(unknown)}; there are tag, include, exclude and prompt")
    if line.get("tag") not in TASKS:
        raise ValueError(f"tag must be one of {', '.join(TASKS)}, not {line.get('tag')!r}")
    prompt, include, exclude = line.get("prompt"), line.get("include"), line.get("exclude", [])
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"prompt must be some words, not {prompt!r}")
    prompt.encode()  # halves of surrogate pairs are no text
    if not isinstance(include, list) or not include:
        raise ValueError(f"include must be a list of at least one clause, not {include!r}")
    if not isinstance(exclude, list):
        raise ValueError(f"exclude must be a list of clauses, not {exclude!r}")
    for index, clause in enumerate(include):
        _check_clause(clause, {"color", "position"}, index)
    for clause in exclude:
        _check_clause(clause, set(), 0)
    return line


def _check_clause(clause: Any, optional: set[str], earlier: int) -> None:
    """earlier: how many clauses stand before this one, which its position may speak of."""
    if (
        not isinstance(clause, dict)
        or not {"class", "count"} <= clause.keys() <= {"class", "count"} | optional
    ):
        also = f", and may have {' or '.join(sorted(optional))}" if optional else ""
        raise ValueError(f"a clause has class and count{also}; not {clause!r}")
    count = clause["count"]
    if clause["class"] not in NAMES:
        raise ValueError(f"class must be one of the eighty names, not {clause['class']!r}")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"count must be a whole number from 1, not {count!r}")
    if "color" in clause and clause["color"] not in COLOURS:
        raise ValueError(f"color must be one of {', '.join(COLOURS)}, not {clause['color']!r}")
    if "position" not in clause:
        return
    match clause["position"]:
        case [relation, int(index)] if relation in RELATIONS and 0 <= index < earlier:
            return
    raise ValueError(
        f"position must be one of {', '.join(RELATIONS)} and the index of an earlier clause, "
        f"not {clause['position']!r}"
    )
