"""From MME's verdicts to its points."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from janus.eval import yesno
from janus.eval.benchmark import Line, Mode, Table
from janus.eval.intervals import bootstrap
from janus.eval.published import beside
from janus.eval.tallies import shown, shown_interval
from janus.eval.yesno import Rule

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
SUBTASKS = (*PERCEPTION, *COGNITION)
SUMS: dict[str, tuple[str, ...]] = {"perception": PERCEPTION, "cognition": COGNITION, "overall": SUBTASKS}
MOST = 200  # points of a subtask
RULES: dict[Mode, Rule] = {"official": yesno.mme_official, "fixed": yesno.mended}
READERS: dict[str, Rule] = {
    "MME's calculation.py (official)": yesno.mme_official,
    "mended (fixed)": yesno.mended,
    "VLMEvalKit": yesno.vlmevalkit,
    "lmms-eval": yesno.lmms_eval_mme,
}

Pairs = dict[str, list[list[bool]]]  # by subtask, which answers to each picture are right


def points(pairs: Sequence[Sequence[bool]]) -> tuple[float, float]:
    """Accuracy and accuracy+ of a subtask; their sum in per cent is its score (calculation.py)."""
    return sum(map(sum, pairs)) / sum(map(len, pairs)), sum(map(all, pairs)) / len(pairs)


def scores_of(
    verdicts: Sequence[Line], expected: Sequence[tuple[str, str]]
) -> tuple[dict[str, float | None], Line]:
    """The scores and what belongs to them.

    expected: subtask and pair of each question.  A subtask's score is None where an answer is missing, a sum
    where a subtask is missing.
    """
    asked: dict[str, int] = {}
    for subtask, _ in expected:
        asked[subtask] = asked.get(subtask, 0) + 1
    pairs = _pairs(verdicts, lambda line: bool(line["score"]))
    subtasks: dict[str, Line] = {}
    scores: dict[str, float | None] = dict.fromkeys(("overall", "perception", "cognition", *SUBTASKS))
    for subtask, count in sorted(asked.items(), key=lambda one: SUBTASKS.index(one[0])):
        lines = [line for line in verdicts if line["tags"]["subtask"] == subtask]
        found: Line = {
            "expected": count,
            "scored": len(lines),
            "unread": sum(line["read"] is None for line in lines),
        }
        if len(lines) == count:
            accuracy, plus = points(pairs[subtask])
            scores[subtask] = 100 * accuracy + 100 * plus
            low, high = bootstrap([_worth(pairs[subtask])])
            found |= {"accuracy": accuracy, "accuracy_plus": plus, "interval": (low, high)}
        subtasks[subtask] = found
    intervals: dict[str, tuple[float, float] | None] = dict.fromkeys(SUMS)
    for name, parts in SUMS.items():
        found_all = [scores[part] for part in parts]
        if None not in found_all:
            scores[name] = sum(value for value in found_all if value is not None)
            low, high = bootstrap([_worth(pairs[part]) for part in parts])
            intervals[name] = len(parts) * low, len(parts) * high
    details = {
        "scale": {name: MOST * len(parts) for name, parts in SUMS.items()},
        "subtasks": subtasks,
        "overall_interval": intervals["overall"],
        "intervals": intervals,
    }
    return scores, details


def tables(scores: Mapping[str, float | None], details: Line, verdicts: Sequence[Line]) -> list[Table]:
    """The subtasks, the same answers as other rules read them, and the report's number."""
    rows = []
    for name, found in details["subtasks"].items():
        rows.append([
            name,
            shown(scores[name], 1),
            shown_interval(found.get("interval"), 1),
            shown(found.get("accuracy")),
            shown(found.get("accuracy_plus")),
            f"{found['scored']} of {found['expected']}",
            str(found["unread"]),
        ])  # fmt: skip
    for name, parts in SUMS.items():
        title = f"{name}, of {MOST * len(parts)}"
        rows.append([title, shown(scores[name], 1), shown_interval(details["intervals"][name], 1), *[""] * 4])
    header = ("subtask", "points", "95 %", "accuracy", "accuracy+", "questions", "not read")
    others = []
    for name, rule in READERS.items():
        pairs = _pairs(verdicts, lambda line, rule=rule: rule(line["answer"]) == line["expected"])  # type: ignore[misc]
        sums = [_sum(pairs, parts) if scores[part] is not None else None for part, parts in SUMS.items()]
        unread = sum(rule(line["answer"]) is None for line in verdicts)
        others.append([name, *(shown(value, 1) for value in sums), str(unread)])
    return [
        Table("", header, rows),
        Table("The same answers, read by others' rules", ("read by", *SUMS, "not read"), others),
        beside("mme", scores["perception"], "perception alone; cognition is not in it"),
    ]


def notes(lacking: Sequence[str]) -> list[str]:
    """What one must know to compare."""
    told = ["The report's MME is perception alone, of 2000 points; its figure 1 shows it divided by 20."]
    if lacking:
        told.append(f"There is no sum without {', '.join(lacking)}.")
    return told


def _pairs(verdicts: Sequence[Line], right: Callable[[Line], bool]) -> Pairs:
    found: dict[str, dict[str, list[bool]]] = {}
    for line in verdicts:
        found.setdefault(line["tags"]["subtask"], {}).setdefault(line["pair"], []).append(right(line))
    return {subtask: list(pairs.values()) for subtask, pairs in found.items()}


def _sum(pairs: Pairs, parts: Sequence[str]) -> float:
    return sum(100 * sum(points(pairs[part])) for part in parts)


def _worth(pairs: Sequence[Sequence[bool]]) -> list[float]:
    """Points of each picture, whose mean is the subtask's score."""
    return [100 * sum(pair) / len(pair) + 100 * all(pair) for pair in pairs]
