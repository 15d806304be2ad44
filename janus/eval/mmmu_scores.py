"""From MMMU's verdicts to its scores: overall, by type, domain and subject, and what guessing would add."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from janus.eval.benchmark import Answers, Line, Mode, Table
from janus.eval.choices import Options, vlmevalkit
from janus.eval.choosing import beside_report, lost_note, shares_row, without_right
from janus.eval.mmmu_rules import (
    CHOICE,
    OPEN,
    Gold,
    lmms_eval_choice,
    lmms_eval_open,
    vlmevalkit_open,
)
from janus.eval.tallies import share, shown, tally

DOMAINS = {  # mmmu/utils/data_utils.py of the official repository
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science",
        "Clinical_Medicine",
        "Diagnostics_and_Laboratory_Medicine",
        "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        "Agriculture",
        "Architecture_and_Engineering",
        "Computer_Science",
        "Electronics",
        "Energy_and_Power",
        "Materials",
        "Mechanical_Engineering",
    ),
}
TYPES = ("multiple-choice", "open")
Rule = tuple[Callable[[str, Options], str | None], Callable[[str, Gold], bool]]  # for either type


def scores_of(samples: Sequence[Line], verdicts: Sequence[Line]) -> tuple[dict[str, float | None], Line]:
    """The scores and what belongs to them; a score is None where an answer that it needs is missing."""
    complete = len(verdicts) == len(samples)
    overall = share(verdicts)
    scores: dict[str, float | None] = {"overall": overall["score"] if complete else None}
    details: Line = {"overall_interval": overall["interval"] if complete else None}
    orders = {
        "type": TYPES,
        "domain": tuple(DOMAINS),
        "subject": tuple(s for d in DOMAINS.values() for s in d),
    }
    for tag, order in orders.items():
        expected = Counter(sample[tag] for sample in samples)
        found = tally(verdicts, tag)
        details[tag] = {name: found[name] | {"expected": expected[name]} for name in order if name in found}
        if tag != "subject":
            whole = {name for name in found if found[name]["of"] == expected[name]}
            scores |= {
                name: found[name]["score"] if name in whole else None for name in order if expected[name]
            }
    details["guessing"] = guessing(samples, verdicts)
    details["without_right_option"] = without_right(samples)
    return scores, details


def guessing(samples: Sequence[Line], verdicts: Sequence[Line]) -> Line:
    """What the official scorer would add on average: it takes an option at random where it reads none."""
    by_id = {sample["id"]: sample for sample in samples}
    unread = [
        len(by_id[line["id"]]["options"])
        for line in verdicts
        if line["read"] is None and line["tags"]["type"] != "open"
    ]
    right = sum(1 / options for options in unread)
    overall = None
    if verdicts and len(verdicts) == len(samples):
        overall = fmean(line["score"] for line in verdicts) + right / len(verdicts)
    return {"unread": len(unread), "right": right, "overall": overall}


def tables(
    answers: Answers, scores: Mapping[str, float | None], details: Line, verdicts: Sequence[Line]
) -> list[Table]:
    """Types and domains, subjects, the same answers by other rules, the report's numbers."""
    header = ("", "accuracy", "95 %", "questions")
    parts = [shares_row("overall", verdicts)]
    for tag in ("type", "domain"):
        parts += [shares_row(name, _tagged(verdicts, tag, name)) for name in details[tag]]
    subjects = [
        shares_row(name.replace("_", " "), _tagged(verdicts, "subject", name)) for name in details["subject"]
    ]
    return [
        Table("", header, parts),
        Table("By subject", header, subjects),
        _others(answers),
        beside_report("mmmu", {"": scores["overall"]}, "MMMU, validation"),
    ]


def notes(details: Line, mode: Mode) -> list[str]:
    """What one must know to compare."""
    found = details["guessing"]
    told = list(lost_note(details["without_right_option"]))
    if found["unread"] and mode == "official":
        told.append(
            f"The official scorer takes an option at random for each of the {found['unread']} choices that "
            f"it cannot read; that would add {found['right']:.1f} right answers on average"
            + ("." if found["overall"] is None else f", and make {100 * found['overall']:.1f} of the score.")
        )
    return told


def _tagged(verdicts: Sequence[Line], tag: str, name: str) -> list[Line]:
    return [line for line in verdicts if line["tags"][tag] == name]


def _by(mode: Mode) -> Rule:
    reader, equal = OPEN[mode]
    return CHOICE[mode], lambda answer, gold: equal(gold, reader(answer))


def _others(answers: Answers) -> Table:
    """The same answers by every rule, so that a number from elsewhere finds its like."""
    rules: dict[str, Rule] = {
        "MMMU's eval_utils.py (official)": _by("official"),
        "mended (fixed)": _by("fixed"),
        "VLMEvalKit": (vlmevalkit, vlmevalkit_open),
        "lmms-eval": (lmms_eval_choice, lmms_eval_open),
    }
    rows = []
    for name, (choose, equal) in rules.items():
        right: dict[str, list[bool]] = {kind: [] for kind in TYPES}
        unread = 0
        for place, sample in enumerate(answers.samples):
            text = answers.text(place)
            if text is None:
                continue
            if sample["type"] == "open":
                right["open"].append(equal(text, sample["answer"]))
                continue
            letter = choose(text, sample["options"])
            unread += letter is None
            right["multiple-choice"].append(letter == sample["answer"])
        every = [one for some in right.values() for one in some]
        of = (every, *right.values())
        rows.append([name, *(shown(fmean(some)) if some else "-" for some in of), str(unread)])
    header = ("read by", "overall", *TYPES, "choices not read")
    return Table("The same answers, read by others' rules; nothing is guessed", header, rows)
