"""GenEval's scores from its verdicts, and how they are shown."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from statistics import fmean

from janus.eval.benchmark import Answers, Item, Line, Mode, Table
from janus.eval.intervals import bootstrap, wilson
from janus.eval.prompts import TASKS
from janus.eval.published import FAMILY, GENEVAL, among
from janus.eval.tallies import shown, shown_interval


def scores_of(
    answers: Answers, correct: Mapping[str, bool], mode: Mode
) -> tuple[dict[str, float | None], Line]:
    """Scores by task and overall, and the counts and intervals behind them.

    correct: whether the picture of an item is right, by its key.  A task's score is the share of its
    pictures that are right, None unless all have a verdict.  `overall` is the mean over the tasks; where
    some have no prompts at all, the official rule takes the mean of the others, the fixed one gives None.
    """
    prompts: dict[str, list[list[bool]]] = {task: [] for task in TASKS}  # verdicts by task and prompt
    for index, sample in enumerate(answers.samples):
        keys = [Item(index, number).key for number in range(answers.each)]
        prompts[sample["tag"]].append([correct[key] for key in keys if key in correct])
    scores: dict[str, float | None] = {"overall": None}
    tasks = {}
    for task, of in prompts.items():
        verdicts = list(chain.from_iterable(of))
        expected, right = len(of) * answers.each, sum(verdicts)
        whole = 0 < len(verdicts) == expected
        scores[task] = right / expected if whole else None
        tasks[task] = {
            "prompts": len(of),
            "expected": expected,
            "scored": len(verdicts),
            "correct": right,
            "interval": wilson(right, expected) if whole else None,
        }
    counting = [task for task in TASKS if mode == "fixed" or prompts[task]]
    shares = [score for task in counting if (score := scores[task]) is not None]
    every = list(chain.from_iterable(prompts.values()))
    details: Line = {"tasks": tasks, "overall_interval": None, "pictures_right": None, "prompts_right": None}
    if all(len(of) == answers.each for of in every):
        details["pictures_right"] = fmean(chain.from_iterable(every))
        details["prompts_right"] = fmean(map(any, every))
    if len(shares) == len(counting):
        scores["overall"] = fmean(shares)
        details["overall_interval"] = bootstrap([list(map(fmean, prompts[task])) for task in counting])
    return scores, details


def tables(scores: Mapping[str, float | None], details: Line) -> list[Table]:
    """The scores with their intervals beside the report's."""
    rows = []
    for row, task in enumerate([*TASKS, "overall"]):
        counts = details["tasks"].get(task)
        interval = counts["interval"] if counts else details["overall_interval"]
        rows.append(
            [
                task,
                shown(scores[task], 1, 3),
                shown_interval(interval, 1, 3),
                f"{counts['correct']} of {counts['scored']}" if counts else "",
                *(f"{GENEVAL[name][row]:.2f}" for name in FAMILY),
            ]
        )
    header = ["task", "score", "95 %", "right of", *(f"{name} (report)" for name in FAMILY)]
    tasks = [*TASKS, "overall"]
    ours = [shown(scores[task], 1, 2) for task in tasks]
    return [Table("", header, rows), among(4, tasks, ours, GENEVAL)]


def notes(details: Line) -> list[str]:
    """What else there is to know: who judged, shares of pictures and prompts."""
    detector = details["detector"]
    told = [f"Judged by the {detector['title']}; the report's numbers by Mask2Former."]
    if details["pictures_right"] is not None:
        told.append(
            f"Right: {details['pictures_right']:.1%} of all pictures; "
            f"of {details['prompts_right']:.1%} of the prompts at least one picture."
        )
    if detector["figures"]:
        figures = "; ".join(f"{name} {value}" for name, value in detector["figures"].items())
        told.append(f"What is known of the {detector['title']}: {figures}.")
    return told
