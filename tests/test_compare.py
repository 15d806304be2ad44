"""Two runs beside each other, and many in one table."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from janus.eval.compare import compare, overview, paired
from janus.eval.folder import ANSWERS, Journal, Run, claimed
from janus.eval.intervals import clustered, wilson
from janus.eval.runner import score
from janus.eval.tallies import interval, share, tally
from tests.toy import Toy, data


def run(folder: Path, wrong: set[int], model: str, count: int = 10, mode: str = "official") -> Path:
    """A scored run whose answers are right but for some."""
    folder.mkdir()
    samples = Toy().samples(data(folder, count), False)
    out = folder / "run"
    plan = {
        "benchmark": "toy",
        "samples": {"title": "toys", "count": count, "used": count, "sha256": "-"},
        "settings": {"model": model, "each": 1, "profile": "pro"},
        "versions": {},
    }
    with claimed(out) as claim:
        Run.begin(claim, plan, samples.lines, samples.pictures)
        told = [
            {"item": f"{i:05d}/00000", "answer": "no idea" if i in wrong else line["answer"]}
            for i, line in enumerate(samples.lines)
        ]
        Journal(claim / ANSWERS).add(told)
    score(Toy(mode=mode), out)  # type: ignore[arg-type]
    return out


def test_what_changed_between_two_runs(tmp_path: Path) -> None:
    one = run(tmp_path / "a", {0, 1, 2}, "first")
    other = run(tmp_path / "b", {1, 7}, "second", count=12)
    told = compare(one, other)
    assert "first (" in told
    assert "second (" in told
    assert "10 items in common, 2 of only one of them left out" in told
    assert "Mean score 0.7000 and 0.8000: +0.1000" in told
    assert "2 items better in the second, 1 worse, 7 the same" in told
    assert "| 7 | What is in the picture? |" in told
    assert "| no idea | 0 |" in told
    assert "3 of 3 changes" in told
    assert "1 of 3 changes" in compare(one, other, show=1)
    assert "0 items better in the second, 0 worse" in compare(one, one)


def test_runs_that_cannot_be_compared(tmp_path: Path) -> None:
    one = run(tmp_path / "a", set(), "first")
    other = run(tmp_path / "b", set(), "second", mode="fixed")
    with pytest.raises(ValueError, match=r"is of mode official, .* of fixed; both must be the same"):
        compare(one, other)
    with pytest.raises(ValueError, match="is not scored: there is no"):
        compare(one, tmp_path)


def test_chance_and_intervals_of_paired_changes() -> None:
    same = np.zeros(20)
    assert paired(same, [str(i) for i in range(20)]) == (0, 0, 1)
    five = np.array([1.0] * 5 + [0.0] * 15)  # swapped at random all five agree in 2 of 32 cases
    low, high, chance = paired(five, [str(i) for i in range(20)])
    assert chance == pytest.approx(2 / 32, abs=0.01)
    assert low < 0.25 < high
    together = paired(five, ["one"] * 5 + [str(i) for i in range(15)])  # a single cluster says nothing
    assert together[2] == 1
    assert together[1] - together[0] > high - low


def test_intervals_of_clusters() -> None:
    scores = [1.0, 0.0] * 50
    apart = clustered(scores, [str(i) for i in range(100)])
    assert apart == pytest.approx((0.5 - 0.098, 0.5 + 0.098), abs=0.015)
    pairs = clustered(scores, [str(i // 2) for i in range(100)])  # each has one right and one wrong
    assert pairs == (0.5, 0.5)
    fours = clustered([1.0] * 50 + [0.0] * 50, [str(i // 4) for i in range(100)])
    assert math.isclose(fours[1] - fours[0], 2 * (apart[1] - apart[0]), rel_tol=0.1)
    assert clustered(scores, [str(i) for i in range(100)]) == apart


def test_tallies() -> None:
    lines = [{"item": str(i), "score": float(i % 4 != 0), "tags": {"kind": "ab"[i % 2]}} for i in range(20)]
    assert tally(lines, "kind") == {
        "a": {"score": 0.5, "interval": wilson(5, 10), "of": 10},
        "b": {"score": 1.0, "interval": wilson(10, 10), "of": 10},
    }
    assert share([]) == {"score": None, "interval": None, "of": 0}
    parts = [line | {"score": 0.5} for line in lines]
    assert interval(parts) == (0.5, 0.5)  # no shares of right and wrong
    assert tally(lines, "other") == {}


def test_many_runs_in_one_table(tmp_path: Path) -> None:
    one = run(tmp_path / "a", {0}, "first")
    other = run(tmp_path / "b", {1, 7}, "second", mode="fixed")
    table = overview([one, other])
    assert "| model | toy | toy (fixed) |" in table
    assert "| first, pro prompts | 90.0 | - |" in table
    assert "| second, pro prompts | - | 80.0 |" in table
    assert f"- {one}: not the published data (toys)" in table
