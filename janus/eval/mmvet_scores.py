"""MM-Vet's scores from its verdicts, and how they are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from janus.eval.benchmark import Line, Table
from janus.eval.mmvet_rules import CAPABILITIES, combination, totals
from janus.eval.published import beside
from janus.eval.tallies import interval, share, shown, shown_interval

_NAMES = {
    "rec": "rec, recognition",
    "ocr": "ocr, reading",
    "know": "know, knowledge",
    "gen": "gen, language",
    "spat": "spat, space",
    "math": "math",
}


def scores_of(samples: Sequence[Line], verdicts: Sequence[Line]) -> tuple[dict[str, float | None], Line]:
    """Shares by capability and overall, None where verdicts are missing; and what is behind them."""
    scores: dict[str, float | None] = {"overall": None}
    details: Line = {"capabilities": {}, "combinations": {}, "official": None, "overall_interval": None}
    for name in CAPABILITIES:
        expected = sum(name in sample["capabilities"] for sample in samples)
        some = [line for line in verdicts if name in line["tags"]["combination"].split("_")]
        if expected:
            found = share(some)
            scores[name] = found["score"] if found["of"] == expected else None
            details["capabilities"][name] = found | {"expected": expected}
    for name in dict.fromkeys(combination(sample["capabilities"]) for sample in samples):
        some = [line for line in verdicts if line["tags"]["combination"] == name]
        details["combinations"][name] = share(some)
    if len(verdicts) == len(samples):
        scores["overall"] = fmean(line["score"] for line in verdicts)
        details["overall_interval"] = interval(verdicts)
        values = {line["id"]: line["grades"] for line in verdicts}
        details["official"] = totals(values, {s["id"]: s["capabilities"] for s in samples})
    return scores, details


def tables(scores: Mapping[str, float | None], details: Line, verdicts: Sequence[Line]) -> list[Table]:
    header = ("capability", "score", "95 %", "questions")
    rows = []
    for name, found in details["capabilities"].items():
        of = f"{found['of']} of {found['expected']}"
        rows.append((_NAMES[name], shown(scores[name]), shown_interval(found["interval"]), of))
    whole = shown_interval(details["overall_interval"])
    rows.append(("all", shown(scores["overall"]), whole, str(len(verdicts))))
    ours = None if details["official"] is None else details["official"]["total"]
    combined = sorted(details["combinations"].items(), key=lambda pair: -pair[1]["of"])
    return [
        Table("", header, rows),
        Table(
            "By combination",
            ("capabilities", "score", "95 %", "questions"),
            [
                (name.replace("_", ", "), shown(of["score"]), shown_interval(of["interval"]), str(of["of"]))
                for name, of in combined
            ],
        ),
        beside("mmvet", ours, "the total, graded by GPT-4 there"),
    ]
