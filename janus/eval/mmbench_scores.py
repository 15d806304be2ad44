"""From MMBench's verdicts to its scores: circular and plain, by ability, by split, by other rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean

from janus.eval.benchmark import Answers, Item, Line, Mode, Table
from janus.eval.choices import OTHERS, READERS, Reader
from janus.eval.choosing import Choosing, beside_report, lost_note, without_right
from janus.eval.tallies import share, shown, shown_interval, tally

TAGS = ("l2", "category", "split")
KINDS = ("circular", "plain", "plain_all")
_TURN = 1_000_000


def scores_of(
    answers: Answers, chosen: Choosing, verdicts: Sequence[Line], expected: int, mode: Mode
) -> tuple[dict[str, float | None], Line]:
    """Scores: circular, as `overall` and by ability of the second level, and the two plain ones.

    expected: questions.  A score is None where an answer that it needs is missing.
    """
    rows = rows_of(answers, chosen)
    first = [row for row in rows if is_first(row, mode)]
    wanted = sum(is_first({"index": one["index"], "group": one["group"]}, mode) for one in answers.samples)
    complete = len(verdicts) == expected
    details: Line = {
        "overall_interval": share(verdicts)["interval"] if complete else None,
        "rows": {"expected": len(answers.samples), "scored": len(rows), "first": wanted},
        "without_right_option": without_right(answers.samples),
    }
    for kind, some in zip(KINDS, (verdicts, first, rows), strict=True):
        details[kind] = share(some) | {tag: tally(some, tag) for tag in TAGS}
    scores = {
        "overall": details["circular"]["score"] if complete else None,
        "plain": details["plain"]["score"] if len(first) == wanted else None,
        "plain_all": details["plain_all"]["score"] if len(rows) == len(answers.samples) else None,
    }
    found = details["circular"]["l2"]
    for ability, count in _questions(answers).items():
        whole = ability in found and found[ability]["of"] == count
        scores[ability] = found[ability]["score"] if whole else None
    return scores, details


def rows_of(answers: Answers, chosen: Choosing) -> list[Line]:
    """Every row that has a verdict, by itself."""
    rows = []
    for place, choice in chosen.settled.items():
        sample = answers.samples[place]
        rows.append(
            {
                "item": Item(place, 0).key,
                "index": sample["index"],
                "group": sample["group"],
                "score": float(choice.letter == sample["answer"]),
                "tags": {tag: sample[tag] for tag in TAGS},
                "cluster": sample["pictures"][0] if sample["pictures"] else str(sample["group"]),
            }
        )
    return rows


def is_first(row: Mapping[str, int], mode: Mode) -> bool:
    """Whether it is a question in its first order.

    VLMEvalKit takes rows up to and with the index 1,000,000, which is question 0's first rotation.
    """
    return row["index"] == row["group"] or (mode == "official" and row["index"] == _TURN)


def tables(
    answers: Answers,
    chosen: Choosing,
    scores: Mapping[str, float | None],
    details: Line,
    verdicts: Sequence[Line],
) -> list[Table]:
    """Abilities of both levels, splits if there are several, other rules, the report's numbers."""
    header = ("", "circular", "95 %", "questions", "plain", "plain, all rotations", "rows")
    parts = [_row("overall", details)]
    for tag in ("l2", "split") if len(details["circular"]["split"]) > 1 else ("l2",):
        parts += [_row(value, details, tag) for value in details["circular"][tag]]
    third = [_row(value, details, "category") for value in sorted(details["circular"]["category"])]
    ours = {
        "circular": scores["overall"],
        "plain, first order": scores["plain"],
        "plain, all": scores["plain_all"],
    }
    return [
        Table("", header, parts),
        Table("By ability of the third level", header, third),
        _others(answers, chosen),
        beside_report("mmbench", ours, "MMBench dev; it does not say whether circular or plain"),
    ]


def notes(details: Line) -> list[str]:
    """What one must know to compare."""
    return [
        "Overall is circular: a question counts if it is right in every rotation of its options.  The report "
        "does not say what its number is; the original Janus' 69.4 was found again as plain accuracy (69.8), "
        "with circular evaluation switched off.",
        *lost_note(details["without_right_option"]),
    ]


def _row(name: str, details: Line, tag: str = "") -> list[str]:
    none: Line = {"score": None, "interval": None, "of": 0}
    found: list[Line] = [details[kind][tag].get(name, none) if tag else details[kind] for kind in KINDS]
    circular, plain, every = found
    return [
        name,
        shown(circular["score"]),
        shown_interval(circular["interval"]),
        str(circular["of"]),
        shown(plain["score"]),
        shown(every["score"]),
        str(every["of"]),
    ]


def _others(answers: Answers, chosen: Choosing) -> Table:
    """The same answers by every rule, so that a number from elsewhere finds its like."""
    rules: dict[str, Reader] = {
        "VLMEvalKit (official)": READERS["official"],
        "mended (fixed)": READERS["fixed"],
    }
    rows = []
    for name, rule in (rules | OTHERS).items():
        right: dict[int, list[bool]] = {}
        first, unread = [], 0
        for place in chosen.settled:
            sample = answers.samples[place]
            letter = rule(answers.text(place) or "", sample["options"])
            unread += letter is None
            right.setdefault(sample["group"], []).append(letter == sample["answer"])
            if sample["index"] == sample["group"]:
                first.append(letter == sample["answer"])
        every = [one for some in right.values() for one in some]
        of = [map(all, right.values()), first, every]
        rows.append(
            [name, *(shown(fmean(values)) if (values := list(some)) else "-" for some in of), str(unread)]
        )
    header = ("read by", "circular", "plain", "plain, all rotations", "rows not read")
    return Table("The same answers, read by others' rules", header, rows)


def _questions(answers: Answers) -> Counter[str]:
    """How many are expected, by ability of the second level."""
    of = {sample["group"]: sample["l2"] for sample in reversed(answers.samples)}
    return Counter(of.values())
