"""Shares of what is right among verdicts, with their intervals: overall, and for each value of a tag."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from janus.eval.benchmark import Line
from janus.eval.intervals import clustered, wilson


def interval(verdicts: Sequence[Line]) -> tuple[float, float] | None:
    """Of the mean score, 95 %: Wilson's where all verdicts are right or wrong and none go together, else
    drawn by clusters.  None where there are no verdicts."""
    if not verdicts:
        return None
    scores = [line["score"] for line in verdicts]
    clusters = [line.get("cluster") or f"item {line['item']}" for line in verdicts]
    if len(set(clusters)) == len(clusters) and set(scores) <= {0, 1}:
        return wilson(int(sum(scores)), len(scores))
    return clustered(scores, clusters)


def share(verdicts: Sequence[Line]) -> Line:
    """`score` (the mean, None without verdicts), `interval` and `of` (how many)."""
    score = fmean(line["score"] for line in verdicts) if verdicts else None
    return {"score": score, "interval": interval(verdicts), "of": len(verdicts)}


def tally(verdicts: Sequence[Line], tag: str) -> dict[str, Line]:
    """`share` of the verdicts with each value of a tag, in the order of their first."""
    groups: dict[str, list[Line]] = {}
    for line in verdicts:
        if tag in line["tags"]:
            groups.setdefault(str(line["tags"][tag]), []).append(line)
    return {value: share(group) for value, group in groups.items()}


def shown(score: float | None, scale: float = 100, digits: int = 1) -> str:
    """As tables show it; "-" where it is missing."""
    return "-" if score is None else f"{score * scale:.{digits}f}"


def shown_interval(interval: tuple[float, float] | None, scale: float = 100, digits: int = 1) -> str:
    if interval is None:
        return "-"
    return f"{interval[0] * scale:.{digits}f} to {interval[1] * scale:.{digits}f}"
