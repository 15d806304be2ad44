"""From POPE's verdicts to its scores: accuracy, precision, recall and F1 of each split, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

import numpy as np

from janus.eval import yesno
from janus.eval.benchmark import Line, Mode, Table
from janus.eval.published import beside
from janus.eval.tallies import shown, shown_interval
from janus.eval.yesno import Reading, Rule

SPLITS = ("random", "popular", "adversarial")
RULES: dict[Mode, Rule] = {"official": yesno.pope_official, "fixed": yesno.mended}
READERS: dict[str, Rule] = {
    "POPE's evaluate.py (official)": yesno.pope_official,
    "mended (fixed)": yesno.mended,
    "VLMEvalKit": yesno.vlmevalkit,
    "lmms-eval": yesno.lmms_eval_pope,
}
Pair = tuple[Reading, Reading | None]  # what is right, what was read
Figures = dict[str, float | None]

_FIGURES = ("accuracy", "precision", "recall", "f1", "yes_rate")
_EARLIER = 2910  # questions of the random split in files of 2023
_ROUNDS = 10_000


def figures(pairs: Sequence[Pair], guarded: bool = True, unread_missed: bool = True) -> Figures:
    """Accuracy, precision, recall and F1 of finding "yes", and the share of answers that were read as yes.

    guarded: what would be divided by zero is 0, otherwise None.  unread_missed: whether an answer that was
    not read lowers the recall; lmms-eval passes it over.
    """

    def share(part: float, of: float) -> float | None:
        return part / of if of else 0.0 if guarded else None

    found = sum(right == read == "yes" for right, read in pairs)
    said = sum(read == "yes" for _, read in pairs)
    there = sum(right == "yes" and (unread_missed or read is not None) for right, read in pairs)
    precision, recall = share(found, said), share(found, there)
    f1 = None
    if precision is not None and recall is not None:
        f1 = share(2 * precision * recall, precision + recall)
    accuracy = share(sum(right == read for right, read in pairs), len(pairs))
    values = (accuracy, precision, recall, f1, share(said, len(pairs)))
    return dict(zip(_FIGURES, values, strict=True))


def scores_of(
    verdicts: Sequence[Line], expected: Mapping[str, int], lacking: Sequence[str], mode: Mode
) -> tuple[dict[str, float | None], Line]:
    """The scores and what belongs to them.

    expected: questions by split.  A split's score is its F1, None where an answer is missing or, by the
    official rules, where the official script would divide by zero.
    """
    by_split = {split: [line for line in verdicts if line["tags"]["split"] == split] for split in SPLITS}
    intervals = _intervals(by_split)
    splits: dict[str, Line] = {}
    for split, lines in by_split.items():
        if split in expected:
            splits[split] = {
                **figures(_pairs(lines), mode == "fixed"),
                "f1_interval": intervals[split],
                "expected": expected[split],
                "scored": len(lines),
                "unread": sum(line["read"] is None for line in lines),
            }
    whole = {split: found["scored"] == found["expected"] for split, found in splits.items()}
    f1 = {split: splits[split]["f1"] if whole.get(split) else None for split in SPLITS}
    mean = dict.fromkeys(_FIGURES) if lacking or not all(whole.values()) else _mean(list(splits.values()))
    scores: dict[str, float | None] = {"overall": mean["f1"], **f1, "accuracy": mean["accuracy"]}
    details = {
        "splits": splits,
        "mean": mean,
        "overall_interval": None if mean["f1"] is None else intervals["overall"],
        "pooled": figures(_pairs(verdicts), mode == "fixed"),
        "lacking": list(lacking),
    }
    return scores, details


def tables(scores: Mapping[str, float | None], details: Line, verdicts: Sequence[Line]) -> list[Table]:
    """The splits, the same answers as other rules read them, and the report's numbers."""
    header = ("split", "accuracy", "precision", "recall", "F1", "95 %", "yes rate", "questions", "not read")
    rows = [
        [
            split,
            *(shown(found[name]) for name in _FIGURES[:4]),
            shown_interval(found["f1_interval"]),
            shown(found["yes_rate"]),
            f"{found['scored']} of {found['expected']}",
            str(found["unread"]),
        ]
        for split, found in details["splits"].items()
    ]
    for name, found, interval in (
        ("mean of the three", details["mean"], details["overall_interval"]),
        ("all together", details["pooled"], None),
    ):
        of = [shown(found[key]) for key in _FIGURES[:4]]
        rows.append([name, *of, shown_interval(interval), shown(found["yes_rate"]), "", ""])
    ours = None if scores["overall"] is None else 100 * scores["overall"]
    return [
        Table("", header, rows),
        _readers(verdicts, scores["overall"] is not None),
        beside("pope", ours, "the mean F1 of the three splits"),
    ]


def notes(
    scores: Mapping[str, float | None], details: Line, verdicts: Sequence[Line], mode: Mode
) -> list[str]:
    """What one must know to compare."""
    told = [
        "Overall is the mean F1 of the three splits, as papers since LLaVA give it.  The report does not say "
        "what its number is; the original Janus' 87.0 was found again as the F1 of the random split alone "
        "(87.1), where all questions together gave 85.5."
    ]
    splits = details["splits"]
    if mode == "official":
        vague = sum(line["read"] == "yes" and yesno.mended(line["answer"]) is None for line in verdicts)
        if vague:
            told.append(f"{vague} answers say neither yes nor no; the official rule takes each as a yes.")
        for split, found in splits.items():
            if found["f1"] is None and found["scored"]:
                told.append(f"No F1 of the {split} split: the official script divides by zero there.")
    if splits.get("random", {}).get("expected") == _EARLIER:
        told.append(
            f"The random split has {_EARLIER:,} questions, as an early file had (LLaVA-1.5's numbers are of "
            "these); today it has 3,000."
        )
    return told


def _readers(verdicts: Sequence[Line], whole: bool) -> Table:
    """The same answers by every rule, so that a number from elsewhere finds its like."""
    rows = []
    for name, rule in READERS.items():
        readings = {line["item"]: rule(line["answer"]) for line in verdicts}
        unread_missed = name != "lmms-eval"
        f1 = {}
        for split in (*SPLITS, "pooled"):
            some = [line for line in verdicts if split in (line["tags"]["split"], "pooled")]
            pairs: list[Pair] = [(line["expected"], readings[line["item"]]) for line in some]
            f1[split] = figures(pairs, unread_missed=unread_missed)
        mean = fmean(f1[split]["f1"] or 0.0 for split in SPLITS) if whole else None
        values = (mean, f1["random"]["f1"] if whole else None, f1["pooled"]["f1"], f1["pooled"]["accuracy"])
        unread = sum(readings[line["item"]] is None for line in verdicts)
        rows.append([name, *map(shown, values), str(unread)])
    header = ("read by", "mean F1", "F1 of random", "F1 of all", "accuracy of all", "not read")
    return Table("The same answers, read by others' rules", header, rows)


def _pairs(verdicts: Iterable[Line]) -> list[Pair]:
    return [(line["expected"], line["read"]) for line in verdicts]


def _mean(splits: Sequence[Line]) -> Figures:
    """Of each figure over the splits; None where one has none."""
    values = {name: [found[name] for found in splits] for name in _FIGURES}
    return {name: None if None in some else fmean(some) for name, some in values.items()}


def _intervals(by_split: Mapping[str, Sequence[Line]]) -> dict[str, tuple[float, float] | None]:
    """Of each split's F1 and of their mean, 95 %: pictures are drawn anew, with all their questions."""
    numbers: dict[str, int] = {}
    for lines in by_split.values():
        for line in lines:
            numbers.setdefault(line["cluster"], len(numbers))
    counts = np.zeros((len(numbers), len(SPLITS), 2))  # found twice; said to be there, and there
    for place, split in enumerate(SPLITS):
        for line in by_split[split]:
            yes, said = line["expected"] == "yes", line["read"] == "yes"
            counts[numbers[line["cluster"]], place] += (2 * (yes and said), yes + said)
    if not numbers:
        return dict.fromkeys((*SPLITS, "overall"))
    rng = np.random.default_rng(0)
    f1 = np.empty((_ROUNDS, len(SPLITS)))
    step = max(1, 2_000_000 // len(numbers))  # rounds at once, for the memory
    for start in range(0, _ROUNDS, step):
        rounds = min(step, _ROUNDS - start)
        drawn = rng.multinomial(len(numbers), np.full(len(numbers), 1 / len(numbers)), rounds)
        found, of = np.moveaxis(np.tensordot(drawn, counts, 1), -1, 0)
        f1[start : start + rounds] = np.divide(found, of, out=np.zeros_like(found), where=of > 0)
    wanted = {split: f1[:, place] for place, split in enumerate(SPLITS)} | {"overall": f1.mean(axis=1)}
    ends = {name: np.quantile(values, [0.025, 0.975]) for name, values in wanted.items()}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}
