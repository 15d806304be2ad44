"""DPG-Bench's scores from what became of its prompts, and how they are shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import fmean

from janus.eval.benchmark import Counts, Line, Table
from janus.eval.dpg_rules import CATEGORIES, Judged, broad, summary
from janus.eval.intervals import bootstrap, clustered
from janus.eval.published import DPG, FAMILY, among
from janus.eval.tallies import shown, shown_interval


def scores_of(judged: Mapping[str, Judged], counts: Counts) -> tuple[dict[str, float | None], Line]:
    """Shares overall and by L1, None where prompts have no verdict; and what is behind them.

    judged: by prompt, without those that are dropped.
    """
    found = summary(list(judged.values()))
    scores: dict[str, float | None] = {"overall": found["overall"] if counts.complete else None}
    for name in CATEGORIES:
        if name in found["l1"]:
            scores[name] = found["l1"][name] if counts.complete else None
    shares = [one.score for one in judged.values() if one.score is not None]
    details: Line = {
        "overall_interval": bootstrap([shares]) if shares and counts.complete else None,
        "mean_of_scored": fmean(shares) if shares else None,
        "l1": _tally(judged, broad),
        "l2": _tally(judged, str),
    }
    return scores, details


def _tally(judged: Mapping[str, Judged], group: Callable[[str], str]) -> dict[str, Line]:
    """By category: share, interval (prompts are drawn anew, with all their questions), number of answers."""
    values: dict[str, list[tuple[float, str]]] = {}
    for name, one in judged.items():
        for category, score in one.categories:
            values.setdefault(group(category), []).append((score, name))
    return {
        category: {
            "score": fmean(score for score, _ in of),
            "interval": clustered([score for score, _ in of], [name for _, name in of]),
            "of": len(of),
        }
        for category, of in sorted(values.items())
    }


def tables(scores: Mapping[str, float | None], details: Line) -> list[Table]:
    """The report's five categories and overall beside its numbers, and the narrow categories."""
    rows = []
    for place, name in enumerate((*CATEGORIES, "overall")):
        found = details["l1"].get(name)
        interval = found["interval"] if found else details["overall_interval"] if name == "overall" else None
        published = (f"{DPG[model][place]:.2f}" for model in FAMILY)
        of = str(found["of"]) if found else ""
        rows.append((name, shown(scores.get(name), 100, 2), shown_interval(interval), of, *published))
    header = ("category", "score", "95 %", "answers", *(f"{name} (report)" for name in FAMILY))
    ours = [shown(scores.get(name), 100, 2) for name in (*CATEGORIES, "overall")]
    narrow = [
        (name, shown(found["score"], 100, 2), shown_interval(found["interval"]), str(found["of"]))
        for name, found in details["l2"].items()
    ]
    return [
        Table("The report's numbers are judged by mPLUG", header, rows),
        Table("By narrow category", ("category", "score", "95 %", "answers"), narrow),
        among(5, (*CATEGORIES, "overall"), ours, DPG),
    ]
